// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lukechampine.com/blake3"
)

// A forgetful knowledge does something just before it forgets.
type forgetful struct {
	knowledge
	before func()
}

func (k forgetful) forget(lo, hi int64) {
	k.before()
	k.knowledge.forget(lo, hi)
}

// A client of another export writes, and while what it changes is being forgotten,
// a thread of a reader looks whether the image is complete.
func TestNoDigestOfWhatIsBeingForgotten(t *testing.T) {
	im, c := newTestImage(t, mib, "digest", "blake3")
	c.read(0, mib)
	im.known[0] = forgetful{im.known[0], im.settle}
	im.endForgetting(im.beginForgetting(0, 4096))
	if r := im.snapshot(); r.State == complete || r.Bytes.Known == mib {
		t.Errorf("the image is %s, and %d bytes are known", r.State, r.Bytes.Known)
	}
	// If that was behind its end, all is as it was.
	c.read(0, mib)
	im.endForgetting(im.beginForgetting(mib, mib+4096))
	if state := im.snapshot().State; state != complete {
		t.Errorf("the image is %s after a change of another one", state)
	}
	im.end()
}

// disk is one disk that a filter serves under any name.
type disk struct {
	*memoryLayer
	filter *filter
}

func newDisk(t *testing.T, size int64, params ...string) *disk {
	t.Helper()
	m := &memoryLayer{bytes: randomBytes(rand.New(rand.NewPCG(uint64(size), 71)), size)}
	f := newFilter()
	f.conf = testConfig(t, params...)
	return &disk{m, f}
}

// open is what a connection does to an image.
func (d *disk) open(t *testing.T, export string) *client {
	t.Helper()
	im, err := d.filter.image(export, int64(len(d.bytes)))
	if err != nil {
		t.Fatal(err)
	}
	return &client{im: im, layer: d.memoryLayer, cursor: im.connect()}
}

func (d *disk) close(c *client) {
	c.im.disconnect(c.cursor)
	d.filter.release(c.im)
}

func (d *disk) write(c *client, p []byte, lo int64) {
	hi := lo + int64(len(p))
	ticket := c.im.beginWrite(c.cursor, lo, hi)
	d.filter.overwritten(c.im, lo, hi)
	c.layer.write(p, lo)
	d.filter.overwritten(c.im, lo, hi)
	c.im.endWrite(c.layer, c.cursor, ticket, lo, p, true)
}

// Names cost a client nothing, so they must not make the writes of others slow.
func TestWritesAskNobodyTwice(t *testing.T) {
	d := newDisk(t, 256<<10, "digest", "blake3")
	const names = 50
	forgotten := 0
	visit := func(i int) *client {
		c := d.open(t, fmt.Sprint(i))
		c.im.known[0] = forgetful{c.im.trees[0], func() { forgotten++ }}
		c.read(0, 256<<10)
		if state := c.im.snapshot().State; state != complete {
			t.Fatalf("%v is %s", c.im, state)
		}
		return c
	}
	var images []*image
	for i := range names {
		c := visit(i)
		images = append(images, c.im)
		d.close(c)
	}
	stays := visit(names)
	writer := d.open(t, "")
	for range 3 {
		d.write(writer, make([]byte, 4096), 8192)
	}
	// Of the one that is open, before and after each of the writes.
	if n := forgotten; n != names+6 {
		t.Errorf("%d images that nobody has open were told %d times", names, n-6)
	}
	for _, im := range images {
		if r := im.snapshot(); r.State == complete || r.Bytes.Known != 0 {
			t.Fatalf("%v is %s, and %d bytes are known", im, r.State, r.Bytes.Known)
		}
	}
	if known := stays.im.progress(); known == 0 || known == 256<<10 {
		t.Errorf("%d bytes are known of an export that is open", known)
	}
	d.close(stays)
	d.write(writer, make([]byte, 4096), 8192)
	if d.filter.several.Load() {
		t.Error("there is nobody to be told, and it is not known")
	}

	// Who comes back is told again.
	back := visit(0)
	forgotten = 0
	d.write(writer, make([]byte, 4096), 0)
	if n := forgotten; n != 2 || back.im.snapshot().State == complete {
		t.Errorf("an export that was opened again is told %d times", n)
	}
	d.close(back)
	d.close(writer)
}

// Somebody opens an image while another client's write makes it forget, and may
// know something again when that is done.
func TestWhoComesDuringAWriteIsTold(t *testing.T) {
	d := newDisk(t, 256<<10, "digest", "blake3")
	first := d.open(t, "disk")
	first.read(0, 256<<10)
	d.close(first)
	writer := d.open(t, "")
	first.im.known[0] = forgetful{first.im.trees[0], func() { d.close(d.open(t, "disk")) }}
	d.filter.overwritten(writer.im, 0, 4096)
	if !d.filter.knowing[first.im] || !d.filter.several.Load() {
		t.Error("no other write would tell it")
	}
	first.im.known[0] = first.im.trees[0]
	d.filter.overwritten(writer.im, 0, 4096)
	if d.filter.knowing[first.im] || d.filter.several.Load() {
		t.Error("all writes would tell it")
	}
	d.close(writer)
}

// What is written to an export that has a name is forgotten of the default one, and
// no more than that.
func TestWriteToANameIsForgottenOfTheDefault(t *testing.T) {
	d := newDisk(t, 4*mib, "digest", "blake3")
	reader, writer := d.open(t, ""), d.open(t, "disk")
	reader.im.setWritable()
	reader.read(0, 4*mib)
	d.close(reader)
	for range 2 {
		d.write(writer, make([]byte, 4096), 0)
		if r := reader.im.snapshot(); r.State == complete || r.Bytes.Known < 3*mib {
			t.Errorf("the default export is %s, and %d bytes are known", r.State, r.Bytes.Known)
		}
		reader.read(0, mib)
	}
	d.close(writer)
}

// A client of the image that was there before writes to what is there now, whatever its
// name.
func TestWriterOfAnotherSizeIsNoStranger(t *testing.T) {
	logError = func(string, ...any) {}
	for _, export := range []string{"", "disk"} {
		d := newDisk(t, 256<<10, "digest", "blake3")
		writer := d.open(t, export)
		d.bytes = d.bytes[:128<<10]
		d.close(d.open(t, export))
		d.write(writer, make([]byte, 4096), 0)
		reader := d.open(t, export)
		reader.read(0, 128<<10)
		d.write(writer, make([]byte, 4096), 0)
		if state := reader.im.snapshot().State; state == complete {
			t.Errorf("%q: the state is %s", export, state)
		}
		d.close(writer)
		d.close(reader)
		if n := len(d.filter.knowing); n != 1 {
			t.Errorf("%q: %d images may know something", export, n)
		}
	}
}

// What lies behind the end of a smaller image takes nothing back of it.
func TestWriteBehindTheEndOfATwin(t *testing.T) {
	d := newDisk(t, 256<<10, "digest", "blake3")
	writer := d.open(t, "")
	logError = func(string, ...any) {}
	whole := d.bytes
	d.bytes = d.bytes[:128<<10]
	reader := d.open(t, "small")
	reader.read(0, 128<<10)
	d.bytes = whole
	results := reader.im.results
	d.write(writer, make([]byte, 4096), 128<<10)
	if r := reader.im.snapshot(); r.State != complete || reader.im.results != results {
		t.Errorf("the state is %s, with %d results after %d", r.State, reader.im.results, results)
	}
	d.write(writer, make([]byte, 4096), 124<<10)
	if state := reader.im.snapshot().State; state == complete {
		t.Errorf("the state is %s after a write before the end", state)
	}
	d.close(writer)
	d.close(reader)
}

// broken is a digest with a fault.
type broken struct{ knowledge }

func (broken) forget(lo, hi int64) { panic("a fault") }

// A fault in a twin must not leave its clients waiting for a write that has no end.
func TestFaultInATwin(t *testing.T) {
	d := newDisk(t, 128<<10, "digest", "blake3")
	writer, reader := d.open(t, ""), d.open(t, "other")
	reader.read(0, 128<<10)
	reader.im.known[0] = broken{reader.im.known[0]}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the fault is hidden")
			}
		}()
		d.filter.overwritten(writer.im, 0, 4096)
	}()
	if state := reader.im.snapshot().State; state != failed || !reader.im.isLost() {
		t.Errorf("the state is %s", state)
	}
	d.close(writer)
	d.close(reader)
}

// Clients come and go while others write to the default export. Whenever no write
// is in flight, a digest is that of what is on the disk.
func TestNamesThatComeAndGoBesideWrites(t *testing.T) {
	t.Parallel()
	const size = 32 << 10
	d := newDisk(t, size, "digest", "merkle/sha256/1k,blake3")
	var writing sync.RWMutex
	var writers, others sync.WaitGroup
	var done atomic.Bool
	for i := range uint64(2) {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(i, 72))
			for range 80 {
				c := d.open(t, "")
				for range 10 {
					lo := r.Int64N(size - 5000)
					p := randomBytes(r, 1+r.Int64N(5000))
					writing.RLock()
					d.write(c, p, lo)
					writing.RUnlock()
				}
				d.close(c)
			}
		})
	}
	for i := range uint64(4) {
		others.Go(func() {
			r := rand.New(rand.NewPCG(i, 73))
			for !done.Load() {
				c := d.open(t, fmt.Sprint(r.IntN(3)))
				for at := int64(0); at < size; at += 16 << 10 {
					c.read(at, at+16<<10)
				}
				d.close(c)
			}
		})
	}
	compared := 0
	others.Go(func() {
		for last := false; !last; {
			last = done.Load()
			writing.Lock()
			sum := blake3.Sum256(d.bytes)
			for _, im := range d.filter.touched() {
				if r := im.snapshot(); r.State == complete && r.Digests[1].Hex != fmt.Sprintf("%x", sum) {
					t.Errorf("%v has the digest of what was there before", im)
				} else if r.State == complete {
					compared++
				}
			}
			writing.Unlock()
			time.Sleep(20 * time.Microsecond)
		}
	})
	writers.Wait()
	done.Store(true)
	others.Wait()
	if compared == 0 {
		t.Error("no digest was ever complete")
	}
	t.Logf("%d digests were compared", compared)
}

// What has a result is kept, however many exports there are.
func TestResultsOfManyExportsAreKept(t *testing.T) {
	d := newDisk(t, 4096, "digest", "blake3")
	for i := range 2 * idleImages {
		c := d.open(t, fmt.Sprint(i))
		if i%2 == 0 {
			c.read(0, 4096)
		}
		d.close(c)
	}
	if n, all := len(d.filter.touched()), len(d.filter.images); n != idleImages || all > 2*idleImages-50 {
		t.Errorf("of %d exports that were read %d have a result, and %d are kept", idleImages, n, all)
	}
}

// newDiskWithFile is newDisk for a filter that writes its results.
func newDiskWithFile(t *testing.T, size int64, params ...string) (d *disk, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "sums")
	d = newDisk(t, size, append(params, "digest-file", file)...)
	d.filter.sidecar = newSidecar(file, d.filter.conf.format, -1)
	return d, file
}

// wantWithdrawn has one client read all of the disk, and checks that the result is gone
// before another one writes.
func (d *disk) wantWithdrawn(t *testing.T, file string, reader, writer *client) {
	t.Helper()
	reader.read(0, int64(len(d.bytes)))
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	writer.im.beginWrite(writer.cursor, 0, 4096)
	d.filter.overwritten(writer.im, 0, 4096)
	if text, err := os.ReadFile(file); err == nil {
		t.Errorf("while the disk is written the file is\n%s", text)
	}
}

// The result of another export is gone from the file before the disk changes.
func TestResultOfATwinIsWithdrawn(t *testing.T) {
	d, file := newDiskWithFile(t, 128<<10, "digest", "blake3")
	d.wantWithdrawn(t, file, d.open(t, "disk"), d.open(t, ""))
}

// So it is if another export, which is told after that one, has no result.
func TestResultOfOneOfTwoTwinsIsWithdrawn(t *testing.T) {
	logError = func(string, ...any) {}
	d, file := newDiskWithFile(t, 256<<10, "digest", "blake3")
	writer := d.open(t, "disk")
	d.bytes = d.bytes[:128<<10]
	reader := d.open(t, "")
	d.open(t, "disk") // of another size: the writer's is gone
	d.wantWithdrawn(t, file, reader, writer)
}
