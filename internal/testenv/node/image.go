//go:build linux

package node

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The images of the node. The first two are what Dockerfile makes of the binaries.
const (
	OperatorImage    = "aether.test/operator:test"
	SidecarImage     = "aether.test/sidecar:test"
	ApplicationImage = "aether.test/application:test"
	pauseImage       = "aether.test/pause:test"
)

// image is one static program.
type image struct {
	name, program string
	entrypoint    []string
}

var images = []image{
	{OperatorImage, "operator", []string{"/operator"}},
	{SidecarImage, "sidecar", []string{"/aether-sidecar"}},
	{ApplicationImage, "application", []string{"/application"}},
	{pauseImage, "application", []string{"/application", "pause"}},
}

// importImage gives an image to containerd, where the kubelet finds it.
func (n *Node) importImage(ctx context.Context, i image) error {
	program, err := os.ReadFile(filepath.Join(n.Dir, "bin", i.program))
	if err != nil {
		return err
	}
	built, err := i.build(program)
	if err != nil {
		return fmt.Errorf("build image %s: %w", i.name, err)
	}
	tag, err := name.NewTag(i.name)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, built, &archive); err != nil {
		return fmt.Errorf("write image %s: %w", i.name, err)
	}
	command := exec.CommandContext(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	command.Stdin = &archive
	return output(command)
}

func (i image) build(program []byte) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return layerOf(i.entrypoint[0], program) })
	if err != nil {
		return nil, err
	}
	built, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := built.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	// containerd leaves out an image that is for another platform, or for none.
	file.OS, file.Architecture = runtime.GOOS, runtime.GOARCH
	file.Config = v1.Config{Entrypoint: i.entrypoint, User: "65532:65532"}
	return mutate.ConfigFile(built, file)
}

// layerOf is a tar with one executable file.
func layerOf(path string, content []byte) (io.ReadCloser, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return io.NopCloser(&layer), w.Close()
}
