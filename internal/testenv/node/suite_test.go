//go:build node

package node_test

import (
	"os"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/node"
)

var cluster *node.Node

func TestMain(m *testing.M) {
	os.Exit(node.Main(func(n *node.Node) int {
		cluster = n
		return m.Run()
	}))
}

func TestNothing(t *testing.T) {}
