//go:build oldest

package access_test

import (
	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withAcknowledgements changes nothing: the oldest server that is supported knows one
// form alone.
func withAcknowledgements(int) natsserver.Option { return func(*server.Options) {} }
