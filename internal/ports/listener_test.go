package ports

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
)

// Each pod may connect, and end no connection: who comes to ask is answered all the same.
func TestWhoComesIsAnswered(t *testing.T) {
	t.Parallel()
	const other = "127.0.0.1"
	eachItsOwn := func(i int) string { return fmt.Sprintf("127.0.1.%d", i+1) }
	allTheSame := func(int) string { return "127.0.0.2" }
	asTheOther := func(int) string { return other }
	const post, length = " HTTP/1.1\r\nHost: x\r\n", "Content-Length: 9\r\n\r\n"
	for name, held := range map[string]struct {
		from  func(int) string
		begin string
		// answered: there is an answer to what was begun.
		answered bool
	}{
		"idle, of many addresses":     {eachItsOwn, get, true},
		"idle, of one address":        {allTheSame, get, true},
		"idle, of the same address":   {asTheOther, get, true},
		"silent":                      {eachItsOwn, "", false},
		"headers without an end":      {eachItsOwn, "GET / HTTP/1.1\r\n", false},
		"bodies that nobody reads":    {eachItsOwn, "POST /go" + post + length, false},
		"bodies that are waited for":  {eachItsOwn, "POST /read" + post + length + "1", false},
		"bodies of what is not there": {eachItsOwn, "POST /x" + post + length + "1", true},
		"bodies in parts":             {asTheOther, "POST /read" + post + "Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n", false},
		"bodies that are asked for":   {allTheSame, "POST /read" + post + "Expect: 100-continue\r\n" + length, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := serve(t, Few)
			for i := range Few {
				if c := call(t, held.from(i), to, held.begin); held.answered && !answered(t, c) {
					t.Fatal("no answer where there is room")
				}
			}
			if !answered(t, call(t, other, to, get)) {
				t.Error("who comes is closed")
			}
		})
	}
}

// A request that is answered is not cut off, and takes no more than its place.
func TestWhatIsAnsweredStays(t *testing.T) {
	t.Parallel()
	to := serve(t, 4)
	const stranger, other, last = "127.0.0.2", "127.0.0.3", " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	var wait []net.Conn
	for range 3 {
		c := call(t, stranger, to, "GET /wait"+last)
		if !answered(t, c) {
			t.Fatal("no answer where there is room")
		}
		wait = append(wait, c)
	}
	end := func(from, asks string) {
		t.Helper()
		c := call(t, from, to, asks+last)
		if !answered(t, c) {
			t.Error("three requests that are answered take a fourth place")
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		call(t, stranger, to, "")
		end(stranger, "GET /")
		call(t, other, to, "")
		end(other, "GET /")
	}
	end(other, "GET /go")
	for _, c := range wait {
		if rest, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(rest, []byte("0\r\n\r\n")) {
			t.Errorf("a request that is answered is cut off behind %q: %v", rest, err)
		}
	}
}

// Who is refused keeps no connection.
func TestRefusalsEndTheConnection(t *testing.T) {
	t.Parallel()
	to := serve(t, 4)
	for _, asks := range []string{"GET /none", "GET //", "OPTIONS *", "POST /none"} {
		c := call(t, "127.0.0.1", to, asks+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if !answered(t, c) {
			t.Errorf("%s has no answer", asks)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: the connection stays: %v", asks, err)
		}
	}
}
