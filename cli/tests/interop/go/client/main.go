// The client of the interop suite in Go: grpc-go, as an application would use it.
//
//	client --target 127.0.0.1:15001 --authority payments.shop --checks all
//
// Runs the checks one after the other, prints a line of JSON for each, and exits with 1 if one failed.
// --authority is what calls are addressed to where that is not the target.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"outrigger/interop/echo"
)

func main() {
	target := flag.String("target", "", "host:port")
	authority := flag.String("authority", "", "what the calls are addressed to; default: the target")
	names := flag.String("checks", "all", "names with commas")
	flag.Parse()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(echo.Codec)),
	}
	if *authority != "" {
		options = append(options, grpc.WithAuthority(*authority))
	}
	connection, fault := grpc.NewClient(*target, options...)
	if fault != nil {
		log.Fatal(fault)
	}
	failed := false
	for _, check := range checks {
		if *names != "all" && !slices.Contains(strings.Split(*names, ","), check.name) {
			continue
		}
		began := time.Now()
		fault := check.run(connection)
		line := map[string]any{"check": check.name, "ok": fault == nil, "ms": time.Since(began).Milliseconds()}
		if fault != nil {
			failed = true
			line["why"] = fmt.Sprintf("%.1200s", fault)
		}
		text, _ := json.Marshal(line)
		fmt.Println(string(text))
	}
	if failed {
		os.Exit(1)
	}
}
