// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"nbdkit-digest-filter/nbdkit"
)

// What is read at the door of the end of an image may be something else when a client
// reads it: it does not count.
func TestEndThatChangesBehindTheDoor(t *testing.T) {
	for _, readonly := range []bool{true, false} {
		im, c := newTestImage(t, 4*mib+5, "digest", "sha256,blake3")
		if err := im.admit(c.layer, nil, readonly); err != nil {
			t.Fatal(err)
		}
		if read := im.filterRead.Load(); read < mib+tailSize {
			t.Fatalf("%d bytes are read at the door: this test shows nothing", read)
		}
		c.layer.write(make([]byte, tailSize), im.size-tailSize)
		c.read(mib, im.size)
		expectDigests(t, im, c.layer)
	}
}

// changingLayer is a layer of which somebody changes bytes just after each read.
type changingLayer struct {
	io.ReaderAt
	change func()
}

func (l changingLayer) ReadAt(p []byte, offset int64) (int, error) {
	n, err := l.ReaderAt.ReadAt(p, offset)
	l.change()
	return n, err
}

func (changingLayer) Extents(int64, int64, func(int64, int64, bool)) error { return nil }

// A client writes while another one's start is looked at: what was read there neither
// answers reads nor counts.
func TestWriteWhileTheStartIsLookedAt(t *testing.T) {
	im, c := newTestImage(t, 64<<10, "digest", "blake3")
	c.layer.bytes[0] = 0xff
	writes := 0
	l := changingLayer{c.layer, func() {
		if writes++; writes == 1 {
			c.write(make([]byte, 4096), 8192, false)
			c.layer.write(make([]byte, 4096), 8192)
		}
	}}
	if err := im.admit(l, nil, true); err != nil {
		t.Fatal(err)
	}
	if im.start.Load() != nil {
		t.Error("reads are answered with what was there before a write")
	}
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)
}

// A look at the start during a write is of no use either.
func TestLookDuringAWrite(t *testing.T) {
	im, c := newTestImage(t, 64<<10, "digest", "blake3")
	ticket := im.beginWrite(c.cursor, 8192, 12288)
	if err := im.admit(c.layer, nil, true); err != nil {
		t.Fatal(err)
	}
	c.layer.write(make([]byte, 4096), 8192)
	im.endWrite(c.layer, c.cursor, ticket, 8192, nil, false)
	im.disconnect(c.cursor)
	expectDigests(t, im, c.layer)
}

// What was read at the door for one connection answers no other one.
func TestStartOfOneConnection(t *testing.T) {
	im, c := newTestImage(t, 2*mib, "digest", "blake3")
	a, b := new(conn), new(conn)
	for _, step := range []struct {
		owner           *conn
		looks, isA, isB bool
	}{
		{a, true, true, false},
		{b, true, false, true},
		{nil, true, true, true},
		{nil, false, true, true},
		{a, true, true, false},
	} {
		served := c.layer.served.Load()
		if err := im.admit(c.layer, step.owner, true); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		looks := c.layer.served.Load() > served
		if isA, isB := im.fromStart(a, buf, 0) > 0, im.fromStart(b, buf, 0) > 0; looks != step.looks || isA != step.isA || isB != step.isB {
			t.Errorf("owner is a, b: %v, %v: the start is read: %v; it answers a, b: %v, %v",
				step.owner == a, step.owner == b, looks, isA, isB)
		}
	}
	im.end()
}

// What is refused leaves no request behind that others would wait for.
func TestImageThatIsMendedAfterItWasRefused(t *testing.T) {
	im, c := newTestImage(t, 2*mib, "digest", "blake3")
	right := bytes.Clone(c.layer.bytes)
	c.layer.write([]byte(strings.Repeat("<html>an error page</html>\n", 1000)), 0)
	if im.admit(c.layer, nil, true) == nil {
		t.Fatal("a page is let in")
	}
	c.layer.fail = func(lo, _ int64) bool { return lo == 0 }
	if im.admit(c.layer, nil, true) == nil {
		t.Fatal("a client is let in to what cannot be read")
	}
	c.layer.fail = nil
	c.layer.write(right, 0)
	if err := im.admit(c.layer, nil, true); err != nil {
		t.Fatal(err)
	}
	c.write([]byte("new"), 100, false)
	im.disconnect(c.cursor)
	background(t, func() { expectDigests(t, im, c.layer) })()
}

// The start is looked at anew when all clients have gone.
func TestStartThatChangesBetweenClients(t *testing.T) {
	im, c := newTestImage(t, 2*mib, "digest-expect", "blake3:"+strings.Repeat("00", 32))
	if err := im.admit(c.layer, nil, true); err != nil {
		t.Fatal(err)
	}
	im.leave()
	c.layer.write([]byte("changed"), 100)
	if im.admit(c.layer, nil, true) == nil || im.snapshot().State != failed {
		t.Errorf("a client is let in to another image, and the state is %s", im.snapshot().State)
	}
	served := c.layer.served.Load()
	if err := im.admit(c.layer, nil, true); err == nil || !strings.Contains(err.Error(), "no digest to be compared") || c.layer.served.Load() > served {
		t.Errorf("the next client gets %v, and %d bytes are read", err, c.layer.served.Load()-served)
	}
	im.end()
}

// What is refused at the door has taken the place of what a client has read half of: the
// rest of that is nowhere.
func TestPageInThePlaceOfAnImage(t *testing.T) {
	logError = func(string, ...any) {}
	im, c := newTestImage(t, 4*mib, "digest", "blake3")
	if err := im.admit(c.layer, nil, true); err != nil {
		t.Fatal(err)
	}
	c.read(0, 2*mib)
	im.leave()
	c.layer.write([]byte("<html>"+strings.Repeat(" ", 8192)), 0)
	if im.admit(c.layer, nil, true) == nil {
		t.Error("a page is let in")
	}
	if r := im.snapshot(); r.State != failed || im.canBeCompleted() {
		t.Errorf("the state is %s", r.State)
	}
	im.end()
}

// An empty image is judged at the door, as nobody has anything to ask it for.
func TestEmptyImageIsJudgedAtTheDoor(t *testing.T) {
	defer func(log func(string, ...any)) { logError = log }(logError)
	logError = func(string, ...any) {}
	for sum, state := range map[string]state{emptySHA256: complete, strings.Repeat("00", 32): mismatch} {
		im, c := newTestImage(t, 0, "digest-expect", "sha256:"+sum)
		conn := &conn{image: im, cursor: c.cursor}
		for range 2 {
			if err := conn.inspect(im, nbdkit.Next{}); (err == nil) != (state == complete) {
				t.Errorf("an image that is to be a %s: %v", state, err)
			}
		}
		if r := im.snapshot(); r.State != state || !im.touched.Load() {
			t.Errorf("the state is %s, and there is a result: %v; want %s", r.State, im.touched.Load(), state)
		}
		im.end()
	}
}

// What a client has written is not looked at on behalf of another one that may write.
func TestLookAtWhatAnotherOneHasWritten(t *testing.T) {
	for _, readonly := range []bool{false, true} {
		im, c := newTestImage(t, 4*mib, "digest", "blake3")
		c.write(c.layer.bytes[2*mib:3*mib], 2*mib, true)
		if err := im.admit(c.layer, nil, readonly); err != nil {
			t.Fatal(err)
		}
		if known := im.progress(); (known > mib) != readonly || im.start.Load() != nil {
			t.Errorf("readonly %v: %d bytes are known, and the start is kept: %v", readonly, known, im.start.Load() != nil)
		}
		im.end()
	}
}

// What the end of an image is, nobody knows if it cannot be read.
func TestEndThatCannotBeReadAtTheDoor(t *testing.T) {
	im, c := newTestImage(t, 4*mib, "digest", "blake3")
	c.layer.fail = func(lo, _ int64) bool { return lo >= 3*mib }
	if err := im.admit(c.layer, nil, true); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("the error is %v", err)
	}
	im.end()
}

// What is said of an image that must not be served, and to whom.
func TestWhoIsRefusedAtTheDoor(t *testing.T) {
	blank, unsafe := signature{kinds: []kind{blankKind}}, signature{kinds: []kind{{"qcow2", container}}, dangers: []string{"qcow2 names a backing file"}}
	const danger = "the image is not safe to open: qcow2 names a backing file: signature-unsafe=allow accepts it"
	const kinds = `signature=gpt wants gpt, but it is qcow2 (container) and starts with : signature=qcow2 or signature=any accepts it`
	for _, test := range []struct {
		s        signature
		size     int64
		readonly bool
		params   []string
		want     string // what is behind "is refused: "
	}{
		{unsafe, 4096, true, nil, danger},
		{unsafe, 4096, false, nil, danger},
		{unsafe, 4096, true, []string{"signature-unsafe", "allow"}, ""},
		{unsafe, 4096, true, []string{"signature", "gpt", "signature-unsafe", "allow"}, kinds},
		{unsafe, 4096, true, []string{"signature", "gpt"}, kinds + "; and " + danger},
		{blank, 4096, true, []string{"signature", "gpt"}, "signature=gpt wants gpt, but it is blank and starts with : signature=blank or signature=any accepts it"},
		{blank, 4096, false, []string{"signature", "gpt"}, ""}, // the copy is about to be written
		{blank, 1, false, []string{"signature", "gpt"}, ""},
		{blank, 0, false, nil, "signature=sane wants a disk image, but it is empty: signature=any accepts it"},
	} {
		im := newImage("", test.size, testConfig(t, test.params...), func() {})
		got := ""
		if err := im.check(test.s, test.readonly); err != nil {
			_, got, _ = strings.Cut(err.Error(), " is refused: ")
		}
		if got != test.want {
			t.Errorf("%s, %d bytes, readonly %v, %s: %q, want %q", test.s, test.size, test.readonly, test.params, got, test.want)
		}
		im.end()
	}
}

// A query looks at an image that no client was let in to, once, and is refused what they
// would be.
func TestQueryAtTheDoor(t *testing.T) {
	for name, want := range map[string]struct{ refused, looks bool }{
		"nobody": {false, true}, "client": {false, false}, "writer": {false, false}, "page": {true, true},
	} {
		im, c := newTestImage(t, 2*mib, "digest", "blake3")
		switch name {
		case "client":
			if err := im.admit(c.layer, nil, true); err != nil {
				t.Fatal(err)
			}
			im.leave()
		case "writer":
			c.write([]byte("new"), 100, true)
		case "page":
			c.layer.write([]byte(strings.Repeat("<html>an error page</html>\n", 1000)), 0)
		}
		before := c.layer.served.Load()
		err := im.examine(c.layer)
		looks := c.layer.served.Load() > before
		if (err != nil) != want.refused || looks != want.looks || im.guests != 0 {
			t.Errorf("%s: the error is %v, the start is read: %v, and there are %d guests", name, err, looks, im.guests)
		}
		if looked := c.layer.served.Load(); err == nil && (im.examine(c.layer) != nil || c.layer.served.Load() > looked) {
			t.Errorf("%s: a second query reads the start", name)
		}
		im.end()
	}
}

// The start answers reads until the last client has gone.
func TestStartStaysUntilTheLastClientLeaves(t *testing.T) {
	im, c := newTestImage(t, 2*mib, "digest", "blake3")
	for range 2 {
		if err := im.admit(c.layer, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	im.leave()
	if im.start.Load() == nil {
		t.Error("a client is there, and the start is not")
	}
	im.leave()
	if im.start.Load() != nil {
		t.Error("the start is kept for nobody")
	}
	im.end()
}

// A start that is as it was is no change of the source, nor is what a client has written.
// A change is told once.
func TestWhatIsAChangeOfTheStart(t *testing.T) {
	defer func(log func(string, ...any)) { logError = log }(logError)
	logged := 0
	logError = func(string, ...any) { logged++ }
	im, c := newTestImage(t, 4*mib, "digest", "blake3")
	visit := func() {
		t.Helper()
		if err := im.admit(c.layer, nil, true); err != nil {
			t.Error(err)
		}
		im.leave()
	}
	if im.isSeen() {
		t.Error("nobody has looked yet")
	}
	visit()
	visit()
	if logged != 0 || im.snapshot().State != pending || !im.isSeen() {
		t.Errorf("%d changes are told of a start that is as it was, and the state is %s", logged, im.snapshot().State)
	}
	for range 2 {
		c.layer.bytes[0]++
		visit()
	}
	if logged != 1 || im.snapshot().State != failed {
		t.Errorf("%d changes are told, and the state is %s", logged, im.snapshot().State)
	}
	im.end()

	logged = 0
	im, c = newTestImage(t, 4*mib, "digest", "blake3")
	visit()
	c.write([]byte("new"), 0, true)
	visit()
	if logged != 0 || im.snapshot().State == failed || im.isSeen() {
		t.Errorf("%d changes are told after a write, and the state is %s", logged, im.snapshot().State)
	}
	im.end()
}

// A blank image is a copy that is about to be written. What was read of it at the door is
// in nobody's way.
func TestCopyToABlankImage(t *testing.T) {
	im, c := newTestImage(t, 2*mib, "digest", "blake3")
	right := bytes.Clone(c.layer.bytes)
	clear(c.layer.bytes)
	if err := im.admit(c.layer, nil, false); err != nil {
		t.Fatal(err)
	}
	c.write(right, 0, true)
	im.disconnect(c.cursor)
	if r := im.snapshot(); r.State != complete {
		t.Errorf("the state is %s", r.State)
	}
	expectDigests(t, im, c.layer)
}
