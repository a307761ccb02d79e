package natsserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Backup is a copy of a stream, as the command line of NATS takes one.
type Backup struct {
	stream        string
	config, state json.RawMessage
	chunks        [][]byte
}

// TakeBackup copies a stream without its consumers.
func TakeBackup(ctx context.Context, nc *nats.Conn, stream string) (*Backup, error) {
	inbox := nc.NewInbox()
	chunks, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the snapshot of stream %s: %w", stream, err)
	}
	defer func() { _ = chunks.Unsubscribe() }()
	var started struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": inbox, "no_consumers": true}, &started); err != nil {
		return nil, err
	}
	b := &Backup{stream: stream, config: started.Config, state: started.State}
	for {
		chunk, err := chunks.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the snapshot of stream %s: %w", stream, err)
		}
		if len(chunk.Data) == 0 {
			return b, nil
		}
		b.chunks = append(b.chunks, chunk.Data)
		if chunk.Reply != "" {
			if err := chunk.Respond(nil); err != nil {
				return nil, fmt.Errorf("acknowledge the snapshot of stream %s: %w", stream, err)
			}
		}
	}
}

// Restore makes the stream again as it was, on the servers of a connection. It takes 30 s
// at most.
func (b *Backup) Restore(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var started struct {
		To string `json:"deliver_subject"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+b.stream, map[string]any{"config": b.config, "state": b.state}, &started); err != nil {
		return err
	}
	for _, chunk := range append(b.chunks, nil) {
		answer, err := b.send(ctx, nc, started.To, chunk)
		if err != nil {
			return fmt.Errorf("restore stream %s: %w", b.stream, err)
		}
		if err := refusal(answer.Data); err != nil {
			return fmt.Errorf("restore stream %s: %w", b.stream, err)
		}
	}
	return nil
}

// send sends a chunk to the server that restores. That one answers the request for it
// before the others know that it listens: what nobody has received is sent again.
func (b *Backup) send(ctx context.Context, nc *nats.Conn, to string, chunk []byte) (*nats.Msg, error) {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		answer, err := nc.RequestWithContext(ctx, to, chunk)
		if !errors.Is(err, nats.ErrNoResponders) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

func ask(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	encoded, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request to %s: %w", subject, err)
	}
	message, err := nc.RequestWithContext(ctx, subject, encoded)
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	if err := refusal(message.Data); err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	if err := json.Unmarshal(message.Data, answer); err != nil {
		return fmt.Errorf("read the answer of %s: %w", subject, err)
	}
	return nil
}

// refusal is the error in an answer of JetStream, nil where there is none.
func refusal(answer []byte) error {
	var refused struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if len(answer) > 0 && json.Unmarshal(answer, &refused) == nil && refused.Error != nil {
		return errors.New(refused.Error.Description)
	}
	return nil
}
