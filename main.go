// SPDX-License-Identifier: BSD-3-Clause

// Nbdkit-digest-filter computes digests of a disk image while clients copy
// it. See nbdkit-digest-filter(1).
package main

/*
#include "about.h"
*/
import "C"

import (
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"nbdkit-digest-filter/nbdkit"
)

// threads is how many of nbdkit's threads may be in Go at a time. They are
// more than the processors, mostly: a thread that would have to wait for
// another to leave Go costs more than the kernel's own scheduling.
const threads = 32

// deceptive are nbdkit's filters that do not keep to what the layer below them says of
// extents, or say others: what reads as zero there may be something else, or an error.
var deceptive = []string{"ddrescue", "evil", "extentlist", "xor"}

// A filter is the program's state: one image for each export that was opened.
type filter struct {
	conf     *config
	parallel bool
	profile  *os.File // nil if nobody asked for it
	sidecar  *sidecar

	isRetried bool // nbdkit's retry filter is in front
	isDynamic bool // the plugin must be told which export is meant, also of the default one
	isCached  bool // its cache filter is below
	isMixed   bool // its cacheextents filter is below: it takes all exports for one

	// stale is set once what the layer below says of extents is not to be believed: it
	// may be of before a write, of another export, or not what a reader gets.
	stale atomic.Bool

	publishing sync.Mutex // held from the look at the images to the file
	finished   bool       // guarded by it, as is all of results: the last word is written
	results    publication

	directory string // in which nbdkit was started
	queries   queries

	several atomic.Bool // knowing are more than one

	mu       sync.Mutex // guards all below
	images   map[string]*image
	knowing  map[*image]bool // that may know something: see twins.go
	defaults map[string]bool // names that the layer below has had for the default export
}

func init() { nbdkit.Register(newFilter()) }

func newFilter() *filter {
	return &filter{
		images:   make(map[string]*image),
		knowing:  make(map[*image]bool),
		defaults: make(map[string]bool),
	}
}

// main is not called in a shared object.
func main() {}

func version() string { return C.DIGEST_VERSION }

func (f *filter) Check(params, others []nbdkit.Param, directory string) ([]nbdkit.Param, error) {
	conf, err := checkConfig(params, others, directory)
	if err != nil {
		return nil, err
	}
	for _, line := range conf.warnings() {
		nbdkit.Error("%s", line)
	}
	return conf.resolve(params), nil
}

func (f *filter) Configure(params, others []nbdkit.Param, directory string) (err error) {
	f.directory = directory
	f.isDynamic = slices.ContainsFunc(others, isDynamicExport)
	f.conf, err = parseConfig(params, directory)
	return err
}

// isDynamicExport tells whether a parameter has nbdkit's nbd plugin serve what the
// client asks for. At shutdown no client does, and the plugin of nbdkit 1.32 ends nbdkit
// then: it asserts that there is a name.
func isDynamicExport(p nbdkit.Param) bool {
	dynamic, _ := parseBool(p.Value) // the plugin has taken it
	return dynamic && p.Key == "dynamic-export"
}

func (f *filter) Start(parallel bool) error {
	runtime.GOMAXPROCS(max(threads, runtime.NumCPU()))
	// Those of nbdkit count: 16 for each connection. Go's own bound, at which
	// it ends the process, is no more than 625 clients.
	debug.SetMaxThreads(math.MaxInt32)
	settleCollector(f.conf.memory)
	if C.digest_debug_profile != 0 {
		if err := f.startProfile(); err != nil {
			return err
		}
	}
	f.parallel = parallel
	f.isRetried = nbdkit.IsBehind("retry")
	f.isCached = nbdkit.IsInFrontOf("cache")
	f.isMixed = nbdkit.IsInFrontOf("cacheextents")
	f.stale.Store(slices.ContainsFunc(deceptive, nbdkit.IsInFrontOf))
	f.lookInFront()
	f.lookForDefault()
	f.sidecar = newSidecar(f.conf.file, f.conf.format, f.conf.stdout)
	return f.sidecar.prepare()
}

func (f *filter) Open(export string, tls bool) (nbdkit.Conn, error) {
	return &conn{filter: f, export: export, tls: tls}, nil
}

const (
	// maxImages is how many exports have a digest at most: a plugin may serve
	// whatever names a client thinks of. It is as many as nbdkit lists.
	maxImages = 10000
	// idleImages is how many images may be kept that clients have opened only.
	idleImages = 100
)

// image returns the state of an export, which must be released. If its size
// is not what it was, the image is another one.
func (f *filter) image(export string, size int64) (*image, error) {
	im, old, err := f.findImage(export, size)
	if old != nil {
		old.end()
		old.start.Store(nil)
		f.queries.endTurnOf(export)
		f.publish() // without the result of what was there
		logError("%v has changed its size from %d to %d: its digest begins anew", old, old.size, size)
		// As at the end of nbdkit, whatever a client has read: of a small qcow2 in a
		// large file a copy need not be more than a look.
		if old.touched.Load() {
			old.failUncompared()
		}
	}
	return im, err
}

// findImage is image under the lock. It also returns the image that has gone, if
// one has.
func (f *filter) findImage(export string, size int64) (im, gone *image, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.images[export]
	if old != nil && old.size == size {
		f.use(old)
		return old, nil, nil
	}
	if old == nil && len(f.images) >= maxImages {
		return nil, nil, fmt.Errorf("export %q is one too many: %d others have a digest", export, len(f.images))
	}
	im = newImage(export, size, f.conf, f.publish)
	im.added = f.publishSoon
	im.stale = &f.stale
	f.images[export] = im
	if f.isMixed && (old != nil || len(f.images) > 1) {
		f.stale.Store(true)
	}
	f.use(im)
	if old != nil && old.users == 0 {
		f.knows(old, false) // nobody will ask
	}
	return im, old, nil
}

// release ends the use of an image. One of which nobody has read anything is
// forgotten, if there are many.
func (f *filter) release(im *image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	im.users--
	if im.users > 0 {
		return
	}
	if f.images[im.export] == im {
		if im.touched.Load() || len(f.images) <= idleImages {
			return
		}
		im.end()
		delete(f.images, im.export)
	}
	f.knows(im, false)
}

// touched returns the images that clients have used, by name.
func (f *filter) touched() []*image {
	f.mu.Lock()
	defer f.mu.Unlock()
	var images []*image
	for _, export := range slices.Sorted(maps.Keys(f.images)) {
		if im := f.images[export]; im.touched.Load() {
			images = append(images, im)
		}
	}
	return images
}

// Finish completes what clients have left, and writes the last word.
func (f *filter) Finish(next nbdkit.Backend) {
	defer f.stopProfile()
	images := f.touched()
	for _, im := range images {
		f.finishLast(next, im)
		im.end()
		im.failUncompared()
	}
	// A thread that hashes may yet have something to publish, from before.
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.finished = true
	var results []result
	for _, im := range images {
		results = append(results, im.snapshot())
	}
	if f.sidecar == nil || f.conf.file == "" && len(results) == 0 {
		return
	}
	if err := f.sidecar.finish(results); err != nil {
		nbdkit.Error("%v", err)
		nbdkit.Fail()
	}
}

// finishLast opens the layer below to complete an image after its last client.
func (f *filter) finishLast(backend nbdkit.Backend, im *image) {
	f.mu.Lock()
	f.use(im)
	f.mu.Unlock()
	defer f.release(im)
	im.clientsGone()
	im.drain(nbdkit.Hurried)
	if !f.wantsMore(im) {
		return
	}
	if im.export != "" || f.isDynamic {
		if f.isRetried {
			nbdkit.Error("%v is not complete: behind the retry filter nobody knows when its last client leaves: read %q before", im, queryFinal+"/"+im.export)
			return
		}
		nbdkit.Error("%v is not complete: a layer below need not know at shutdown which export is meant", im)
		return
	}
	context, err := backend.Open(im.export)
	if err != nil {
		nbdkit.Error("%v cannot be completed: %v", im, err)
		return
	}
	defer context.Close()
	if !im.isSameWithoutTLS(context.Next) {
		nbdkit.Error("%v is not complete: %v: read %q before", im, errWithoutTLS, queryFinal)
		return
	}
	f.finish(context.Next, im)
}

// wantsMore tells whether the filter is to read what clients have left of an
// image.
func (f *filter) wantsMore(im *image) bool {
	return f.conf.unread != skip && !im.isProbed() && im.canBeCompleted() && !nbdkit.Hurried()
}

// finish reads what clients have left of an image.
func (f *filter) finish(next nbdkit.Next, im *image) {
	if !f.wantsMore(im) {
		return
	}
	if size, err := next.Size(); err != nil || size != im.size {
		nbdkit.Error("%v cannot be completed: its size was %d and is %d now", im, im.size, size)
		return
	}
	stop := showProgress(im)
	defer stop()
	im.finish(next, f.readers())
}

// readers is how many threads may read the layer below for the filter itself.
func (f *filter) readers() int {
	if f.parallel {
		return endReaders
	}
	return 1
}

// showProgress prints a line that counts up, if a person is there to read it
// and the end pass takes longer than 2 seconds.
func showProgress(im *image) (stop func()) {
	if _, err := unix.IoctlGetTermios(2, unix.TCGETS); err != nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTicker(500 * time.Millisecond)
		defer timer.Stop()
		for shown := 0; ; shown++ {
			select {
			case <-timer.C:
			case <-done:
				if shown >= 4 {
					fmt.Fprint(os.Stderr, "\r\033[K")
				}
				return
			}
			if shown >= 4 {
				fmt.Fprintf(os.Stderr, "\rdigest: reading what no client asked for: %.1f%% of %v",
					100*float64(im.progress())/float64(max(1, im.size)), im)
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
