// The server of the interop suite in Go: grpc-go, as an application would use it.
//
//	server --listen 127.0.0.1:0
//
// Prints one line of JSON with the address it is bound to, then serves until it is killed. Messages are bytes;
// ../../main.rs tells what each method of interop.Echo does.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger/interop/echo"
)

// A call that hangs gives up after this, so that a lost cancel is a failure and no leak.
const hangMax = 20 * time.Second

// How long Seen waits for the end of the call that it is asked for.
const seenMax = 5 * time.Second

// What the server saw of one call that hangs.
type hung struct {
	remaining *float64
	ended     chan struct{}
}

type server struct {
	mutex sync.Mutex
	hung  map[string]*hung
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "host:port; port 0 lets the kernel choose")
	flag.Parse()
	listener, fault := net.Listen("tcp", *listen)
	if fault != nil {
		log.Fatal(fault)
	}
	line, _ := json.Marshal(map[string]string{"listen": listener.Addr().String()})
	fmt.Println(string(line))
	serving := grpc.NewServer(grpc.ForceServerCodec(echo.Codec))
	serving.RegisterService(&service, &server{hung: map[string]*hung{}})
	log.Fatal(serving.Serve(listener))
}

var service = grpc.ServiceDesc{
	ServiceName: "interop.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		unary("Unary", (*server).unary),
		// Whoever sends compressed messages gets them so.
		unary("Zip", func(_ *server, _ context.Context, request []byte) ([]byte, error) { return request, nil }),
		unary("Fail", (*server).fail),
		unary("Hang", (*server).hang),
		unary("Seen", (*server).seen),
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "Collect", Handler: collect, ClientStreams: true},
		{StreamName: "Expand", Handler: expand, ServerStreams: true},
		{StreamName: "Chat", Handler: chat, ClientStreams: true, ServerStreams: true},
		{StreamName: "HangStream", Handler: hangStream, ClientStreams: true, ServerStreams: true},
	},
}

// Echoes the message, and metadata whose key begins with `echo-`, in headers and trailers.
func (*server) unary(ctx context.Context, request []byte) ([]byte, error) {
	received, _ := metadata.FromIncomingContext(ctx)
	echoed := metadata.MD{}
	for key, values := range received {
		if strings.HasPrefix(key, "echo-") {
			echoed[key] = values
		}
	}
	if fault := grpc.SendHeader(ctx, echoed); fault != nil {
		return nil, fault
	}
	return request, grpc.SetTrailer(ctx, echoed)
}

// Ends with the status that the request describes.
func (*server) fail(ctx context.Context, request []byte) ([]byte, error) {
	var failure echo.Failure
	if fault := json.Unmarshal(request, &failure); fault != nil {
		return nil, fault
	}
	if len(failure.Details) > 0 {
		details := metadata.Pairs("grpc-status-details-bin", string(failure.Details))
		if fault := grpc.SetTrailer(ctx, details); fault != nil {
			return nil, fault
		}
	}
	return []byte{}, status.Error(codes.Code(failure.Code), failure.Message)
}

// Never answers; notes what it is told. The request is the name that Seen asks for.
func (server *server) hang(ctx context.Context, request []byte) ([]byte, error) {
	server.note(ctx, string(request))
	return nil, ctx.Err()
}

// What was seen of the hanging call of this name, once it is over, or now after five seconds.
func (server *server) seen(_ context.Context, request []byte) ([]byte, error) {
	deadline := time.Now().Add(seenMax)
	call := server.find(string(request))
	for ; call == nil && time.Now().Before(deadline); call = server.find(string(request)) {
		time.Sleep(2 * time.Millisecond)
	}
	if call == nil {
		return json.Marshal(echo.Sight{})
	}
	sight := echo.Sight{Began: true, RemainingMs: call.remaining}
	select {
	case <-call.ended:
		sight.Ended = true
	case <-time.After(seenMax):
	}
	return json.Marshal(sight)
}

// All messages of a client stream, put together.
func collect(_ any, stream grpc.ServerStream) error {
	var all, message []byte
	for {
		switch fault := stream.RecvMsg(&message); fault {
		case nil:
			all = append(all, message...)
		case io.EOF:
			return stream.SendMsg(&all)
		default:
			return fault
		}
	}
}

// As many messages as the request says, each of as many bytes, each its own number throughout.
func expand(_ any, stream grpc.ServerStream) error {
	var request []byte
	var messages echo.Messages
	if fault := stream.RecvMsg(&request); fault != nil {
		return fault
	}
	if fault := json.Unmarshal(request, &messages); fault != nil {
		return fault
	}
	for number := range messages.Count {
		message := []byte(strings.Repeat(string([]byte{byte(number)}), messages.Bytes))
		if fault := stream.SendMsg(&message); fault != nil {
			return fault
		}
	}
	return nil
}

// Echoes each message as it comes.
func chat(_ any, stream grpc.ServerStream) error {
	var message []byte
	for {
		switch fault := stream.RecvMsg(&message); fault {
		case nil:
		case io.EOF:
			return nil
		default:
			return fault
		}
		if fault := stream.SendMsg(&message); fault != nil {
			return fault
		}
	}
}

// Hang as a stream, which answers its first message, the name, and nothing more.
func hangStream(handler any, stream grpc.ServerStream) error {
	var name []byte
	if fault := stream.RecvMsg(&name); fault != nil {
		return fault
	}
	if fault := stream.SendMsg(&name); fault != nil {
		return fault
	}
	handler.(*server).note(stream.Context(), string(name))
	return stream.Context().Err()
}

// Notes a call that hangs, and returns when it is over.
func (server *server) note(ctx context.Context, name string) {
	call := &hung{ended: make(chan struct{})}
	if deadline, given := ctx.Deadline(); given {
		remaining := float64(time.Until(deadline)) / float64(time.Millisecond)
		call.remaining = &remaining
	}
	server.mutex.Lock()
	server.hung[name] = call
	server.mutex.Unlock()
	select {
	case <-ctx.Done():
		close(call.ended)
	case <-time.After(hangMax):
	}
}

func (server *server) find(name string) *hung {
	server.mutex.Lock()
	defer server.mutex.Unlock()
	return server.hung[name]
}

// A method without code made from a proto.
func unary(name string, answer func(*server, context.Context, []byte) ([]byte, error)) grpc.MethodDesc {
	handler := func(
		handler any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
	) (any, error) {
		var request []byte
		if fault := decode(&request); fault != nil {
			return nil, fault
		}
		response, fault := answer(handler.(*server), ctx, request)
		return &response, fault
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}
