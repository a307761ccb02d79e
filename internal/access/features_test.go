//go:build !oldest

package access_test

import (
	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withAcknowledgements makes servers say where to acknowledge in the form of a
// version.
func withAcknowledgements(version int) natsserver.Option {
	return func(o *server.Options) {
		o.FeatureFlags = map[string]bool{server.FeatureFlagJsAckFormatV2: version == 2}
	}
}
