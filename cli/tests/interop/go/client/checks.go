package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger/interop/echo"
)

// A call that takes longer hangs.
const callMax = 20 * time.Second

// The first will do, but on a machine so slow that the server does not even see the call in that time.
var deadlines = []time.Duration{400 * time.Millisecond, 3 * time.Second, 15 * time.Second}

// A deadline that is honoured is not missed by this much.
const late = 4 * time.Second

// Libraries round a timeout up when they write it, by a millisecond or so.
const rounding = 5 * time.Millisecond

// It must be quoted on the wire: unicode, percent signs, a newline.
const message = "Zahlung abgelehnt: 100 % – nicht gedeckt\n„später“ %41 \U0001F4A9"

var checks = []struct {
	name string
	run  func(*grpc.ClientConn) error
}{
	{"unary", unary},
	{"client_stream", clientStream},
	{"server_stream", serverStream},
	{"bidi_stream", bidiStream},
	{"deadline", deadline},
	{"cancel", cancel},
	{"metadata", bothWays},
	{"gzip", zip},
	{"statuses", statuses},
	{"details", details},
	{"large", large},
}

func unary(connection *grpc.ClientConn) error {
	for _, payload := range [][]byte{{}, []byte("x"), allBytes()} {
		if fault := same(connection, "Unary", payload); fault != nil {
			return fault
		}
	}
	return nil
}

func clientStream(connection *grpc.ClientConn) error {
	stream, end, fault := open(connection, "Collect")
	if fault != nil {
		return fault
	}
	defer end()
	var all []byte
	for number := range 100 {
		message := bytes.Repeat([]byte{byte(number)}, number)
		all = append(all, message...)
		if fault := stream.SendMsg(&message); fault != nil {
			return fault
		}
	}
	answers, fault := rest(stream)
	if fault != nil {
		return fault
	}
	return equal(answers, [][]byte{all}, "the answer")
}

func serverStream(connection *grpc.ClientConn) error {
	stream, end, fault := open(connection, "Expand")
	if fault != nil {
		return fault
	}
	defer end()
	request, _ := json.Marshal(echo.Messages{Count: 100, Bytes: 1000})
	if fault := stream.SendMsg(&request); fault != nil {
		return fault
	}
	answers, fault := rest(stream)
	if fault != nil {
		return fault
	}
	var wanted [][]byte
	for number := range 100 {
		wanted = append(wanted, bytes.Repeat([]byte{byte(number)}, 1000))
	}
	return equal(answers, wanted, "the messages")
}

// Each message is sent only when the answer to the one before is here.
func bidiStream(connection *grpc.ClientConn) error {
	stream, end, fault := open(connection, "Chat")
	if fault != nil {
		return fault
	}
	defer end()
	for number := range 50 {
		request, answer := fmt.Append(nil, number), []byte(nil)
		if fault := stream.SendMsg(&request); fault != nil {
			return fault
		}
		if fault := stream.RecvMsg(&answer); fault != nil {
			return fault
		}
		if fault := equal(answer, request, "an answer"); fault != nil {
			return fault
		}
	}
	answers, fault := rest(stream)
	if fault != nil {
		return fault
	}
	return equal(len(answers), 0, "messages after the last")
}

func deadline(connection *grpc.ClientConn) error {
	var sight echo.Sight
	var given time.Duration
	for _, given = range deadlines {
		name, began := []byte(rand.Text()), time.Now()
		ctx, end := context.WithDeadline(context.Background(), began.Add(given))
		_, fault := call(ctx, connection, "Hang", name)
		end()
		if fault := equal(status.Code(fault), codes.DeadlineExceeded, "the code"); fault != nil {
			return fault
		}
		if took := time.Since(began); took > given+late {
			return fmt.Errorf("%v of %v", took, given)
		}
		if sight, fault = seen(connection, name); fault != nil {
			return fault
		}
		if sight.Began {
			break
		}
	}
	// A relay may not give the server longer than the client gives it.
	bound := float64(given+rounding) / float64(time.Millisecond)
	if !sight.Began || !sight.Ended || sight.RemainingMs == nil || *sight.RemainingMs > bound {
		return fmt.Errorf("what the server saw: %s", sight)
	}
	return nil
}

func cancel(connection *grpc.ClientConn) error {
	stream, end, fault := open(connection, "HangStream")
	if fault != nil {
		return fault
	}
	name, answer := []byte(rand.Text()), []byte(nil)
	if fault := stream.SendMsg(&name); fault != nil {
		return fault
	}
	if fault := stream.RecvMsg(&answer); fault != nil {
		return fault
	}
	end()
	if fault := equal(status.Code(stream.RecvMsg(&answer)), codes.Canceled, "the code"); fault != nil {
		return fault
	}
	sight, fault := seen(connection, name)
	if fault != nil {
		return fault
	}
	if !sight.Began || !sight.Ended {
		return fmt.Errorf("what the server saw: %s", sight)
	}
	return nil
}

func bothWays(connection *grpc.ClientConn) error {
	sent := metadata.MD{
		"echo-ascii":    {"visible ASCII, with commas; ~!@#$%^&*()"},
		"echo-many":     {"first", "second"},
		"echo-all-bin":  {string(allBytes())},
		"echo-many-bin": {"\x00\xff", "a,b"},
		"echo-long":     {strings.Repeat("x", 4000)},
	}
	ctx, end := soon()
	defer end()
	var headers, trailers metadata.MD
	ctx = metadata.NewOutgoingContext(ctx, sent)
	_, fault := call(ctx, connection, "Unary", nil, grpc.Header(&headers), grpc.Trailer(&trailers))
	if fault != nil {
		return fault
	}
	for key, values := range sent {
		if fault := equal(headers[key], values, key+" in headers"); fault != nil {
			return fault
		}
		if fault := equal(trailers[key], values, key+" in trailers"); fault != nil {
			return fault
		}
	}
	return nil
}

// Far fewer bytes than these go over the wire: the suite counts them.
func zip(connection *grpc.ClientConn) error {
	payload := bytes.Repeat([]byte("compressible "), 40_000)
	return same(connection, "Zip", payload, grpc.UseCompressor(gzip.Name))
}

func statuses(connection *grpc.ClientConn) error {
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		found, _, fault := fail(connection, echo.Failure{Code: uint32(code), Message: message})
		if fault != nil {
			return fault
		}
		wanted := message
		if code == codes.OK {
			wanted = ""
		}
		if fault := equal(found.Code(), code, "the code"); fault != nil {
			return fault
		}
		if fault := equal(found.Message(), wanted, code.String()); fault != nil {
			return fault
		}
	}
	return nil
}

// A google.rpc.Status with a detail of 256 different bytes comes as it was sent.
func details(connection *grpc.ClientConn) error {
	detail := append(field(1, []byte("type.example.com/interop.Bytes")), field(2, allBytes())...)
	bytes := append([]byte{8, 9}, append(field(2, []byte(message)), field(3, detail)...)...)
	found, trailers, fault := fail(connection, echo.Failure{Code: 9, Message: message, Details: bytes})
	if fault != nil {
		return fault
	}
	if fault := equal(found.Code(), codes.FailedPrecondition, "the code"); fault != nil {
		return fault
	}
	if fault := equal(found.Proto().GetDetails()[0].GetValue(), allBytes(), "the detail"); fault != nil {
		return fault
	}
	return equal(trailers["grpc-status-details-bin"], []string{string(bytes)}, "the details")
}

// As much as grpcio and grpc-go receive by default.
func large(connection *grpc.ClientConn) error {
	return same(connection, "Unary", bytes.Repeat(allBytes(), 4<<20/256))
}

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callMax)
}

func call(
	ctx context.Context, connection *grpc.ClientConn, method string, request []byte, options ...grpc.CallOption,
) ([]byte, error) {
	var response []byte
	fault := connection.Invoke(ctx, echo.Path+method, &request, &response, options...)
	return response, fault
}

// That a method answers what it is asked.
func same(connection *grpc.ClientConn, method string, payload []byte, options ...grpc.CallOption) error {
	ctx, end := soon()
	defer end()
	response, fault := call(ctx, connection, method, payload, options...)
	if fault != nil {
		return fault
	}
	if !bytes.Equal(response, payload) {
		return fmt.Errorf("%d bytes came back, and not the %d that were sent", len(response), len(payload))
	}
	return nil
}

func open(connection *grpc.ClientConn, method string) (grpc.ClientStream, context.CancelFunc, error) {
	ctx, end := soon()
	stream, fault := connection.NewStream(
		ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, echo.Path+method)
	return stream, end, fault
}

// Ends a stream's requests, and reads what there still is of answers.
func rest(stream grpc.ClientStream) ([][]byte, error) {
	if fault := stream.CloseSend(); fault != nil {
		return nil, fault
	}
	var answers [][]byte
	for {
		var answer []byte
		switch fault := stream.RecvMsg(&answer); fault {
		case nil:
			answers = append(answers, answer)
		case io.EOF:
			return answers, nil
		default:
			return nil, fault
		}
	}
}

func seen(connection *grpc.ClientConn, name []byte) (echo.Sight, error) {
	ctx, end := soon()
	defer end()
	var sight echo.Sight
	answer, fault := call(ctx, connection, "Seen", name)
	if fault != nil {
		return sight, fault
	}
	return sight, json.Unmarshal(answer, &sight)
}

// What a call comes to that is asked to fail; an error if nobody answered it.
func fail(connection *grpc.ClientConn, failure echo.Failure) (*status.Status, metadata.MD, error) {
	ctx, end := soon()
	defer end()
	request, fault := json.Marshal(failure)
	if fault != nil {
		return nil, nil, fault
	}
	var trailers metadata.MD
	_, fault = call(ctx, connection, "Fail", request, grpc.Trailer(&trailers))
	return status.Convert(fault), trailers, nil
}

func equal(found, wanted any, what string) error {
	if reflect.DeepEqual(found, wanted) {
		return nil
	}
	return fmt.Errorf("%s: %.400q where %.400q was due", what, fmt.Sprint(found), fmt.Sprint(wanted))
}

// A length-delimited field of a protobuf message.
func field(number byte, data []byte) []byte {
	bytes, length := []byte{number<<3 | 2}, len(data)
	for ; length > 127; length >>= 7 {
		bytes = append(bytes, byte(length&127|128))
	}
	return append(append(bytes, byte(length)), data...)
}

func allBytes() []byte {
	bytes := make([]byte, 256)
	for index := range bytes {
		bytes[index] = byte(index)
	}
	return bytes
}
