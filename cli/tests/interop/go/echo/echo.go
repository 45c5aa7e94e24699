// Package echo is what the client and the server of the interop suite in Go share.
package echo

import (
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/encoding"
)

// Path is where the methods are found.
const Path = "/interop.Echo/"

// Codec takes messages as the bytes that they are, under the name of the codec that it stands in for.
var Codec encoding.Codec = raw{}

type raw struct{}

func (raw) Marshal(message any) ([]byte, error) {
	bytes, fits := message.(*[]byte)
	if !fits {
		return nil, fmt.Errorf("a message is *[]byte and not %T", message)
	}
	return *bytes, nil
}

func (raw) Unmarshal(data []byte, message any) error {
	bytes, fits := message.(*[]byte)
	if !fits {
		return fmt.Errorf("a message is *[]byte and not %T", message)
	}
	*bytes = append([]byte{}, data...)
	return nil
}

func (raw) Name() string { return "proto" }

// Failure is what Fail is asked for.
type Failure struct {
	Code    uint32 `json:"code"`
	Message string `json:"message"`
	// Details is a google.rpc.Status, in JSON as base64.
	Details []byte `json:"details,omitempty"`
}

// Messages is what Expand is asked for.
type Messages struct {
	Count int `json:"count"`
	Bytes int `json:"bytes"`
}

// Sight is what the server saw of a call that hangs.
type Sight struct {
	Began       bool     `json:"began"`
	Ended       bool     `json:"ended"`
	RemainingMs *float64 `json:"remaining_ms"`
}

func (sight Sight) String() string {
	text, _ := json.Marshal(sight)
	return string(text)
}
