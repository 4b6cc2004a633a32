package tests

import (
	"bytes"
	"os"
	"testing"

	"nbdkit-digest-filter/tests/nbd"
)

// Exports that are one disk: a plugin may serve it under any name, and in any size.

func readAll(t *testing.T, c *nbd.Client) {
	t.Helper()
	if _, err := c.Read(0, c.Size); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, c *nbd.Client, offset int64) []byte {
	t.Helper()
	data := bytes.Repeat([]byte("new data"), 512)
	for _, call := range []*nbd.Call{
		c.Do(nbd.CmdWrite, offset, int64(len(data)), data),
		c.Do(nbd.CmdFlush, 0, 0, nil),
	} {
		if call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	return data
}

func TestWriteThroughAnotherName(t *testing.T) {
	for _, digest := range []string{"sha256", "blake3"} {
		for _, names := range [][2]string{{"", "disk"}, {"disk", ""}} {
			image := randomImage(t, 4*mib)
			s := serve(t, "--filter="+filter, "file", image, "digest="+digest)
			reader := dial(t, s, names[0])
			readAll(t, reader)
			writer := dial(t, s, names[1])
			data := overwrite(t, writer, 4096)
			writer.Close()
			if got, err := reader.Read(4096, int64(len(data))); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: a reader of %q gets what was there before (%v)", digest, names[0], err)
			}
			reader.Close()
			wantState(t, ask(t, s, ".digest-final/"+names[0]), names[0]+" complete "+digest+":"+sumOf(t, digest, image))
			s.stop()
		}
	}
}

func TestWriteByAClientOfAnotherSize(t *testing.T) {
	image := randomImage(t, 4*mib)
	s := serve(t, "--filter="+filter, "file", image, "digest=blake3")
	old := dial(t, s, "")
	readAll(t, old)
	if err := os.Truncate(image, 6*mib); err != nil {
		t.Fatal(err)
	}
	now := dial(t, s, "")
	readAll(t, now)
	data := overwrite(t, old, 0)
	if got, err := now.Read(0, int64(len(data))); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a reader gets what was there before (%v)", err)
	}
	old.Close()
	now.Close()
	wantState(t, ask(t, s, ".digest-final"), " complete blake3:"+sumOf(t, "blake3", image))
	s.stop()
}
