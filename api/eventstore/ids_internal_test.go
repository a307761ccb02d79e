package eventstore

import (
	"fmt"
	"strings"
	"testing"
)

func filled(n int) *idFilter {
	f := &idFilter{}
	for i := 1; i <= n; i++ {
		f.add(idHash(fmt.Sprintf("id-%d", i)), int64(i))
	}
	return f
}

// Whatever is above since is found, before it was written down and after, and few ids
// seem to be there that are not.
func TestIDFilter(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, exactIDs, exactIDs + 1, idsOfGeneration, idsOfGeneration + 1, 2*idsOfGeneration + 1, 5*idsOfGeneration + 17} {
		f := filled(n)
		text := f.encode()
		again, err := decodeIDs(text)
		if err != nil || again.encode() != text {
			t.Fatalf("%d ids: %v", n, err)
		}
		if snapshot := (Snapshot{ActorID: "a", Version: 1, Metadata: map[string]string{metadataIDs: text}}); snapshot.Validate() != nil {
			t.Errorf("%d ids take %d bytes, and no snapshot may have them: %v", n, len(text), snapshot.Validate())
		}
		if known := n - int(f.since); known < min(n, idsOfGeneration) || known > 2*idsOfGeneration {
			t.Errorf("of %d ids the newest %d are known", n, known)
		}
		for i := int(f.since) + 1; i <= n; i++ {
			if hash := idHash(fmt.Sprintf("id-%d", i)); !f.mayHave(hash) || !again.mayHave(hash) {
				t.Fatalf("of %d ids, %d is not known", n, i)
			}
		}
		wrong := 0
		for i := range 10000 {
			if again.mayHave(idHash(fmt.Sprintf("other-%d", i))) {
				wrong++
			}
		}
		if wrong > 100 {
			t.Errorf("of %d ids: %d of 10000 others seem to be there", n, wrong)
		}
	}
}

func TestIDFilterOfAnother(t *testing.T) {
	t.Parallel()
	good := filled(10).encode()
	for _, text := range []string{"", "?", "AA", good[:len(good)-2], good + "AAAA", strings.Repeat("A", 40000), strings.Replace(good, "A", "/", 1)} {
		if f, err := decodeIDs(text); err == nil {
			t.Errorf("%.40q was taken for %d ids", text, f.younger.count)
		}
	}
}

func FuzzDecodeIDs(f *testing.F) {
	f.Add(filled(3).encode())
	f.Add(filled(exactIDs + 1).encode())
	f.Fuzz(func(t *testing.T, text string) {
		if ids, err := decodeIDs(text); err == nil {
			if again, err := decodeIDs(ids.encode()); err != nil || again.encode() != ids.encode() {
				t.Errorf("not the same again: %v", err)
			}
		}
	})
}
