// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on exports that are one disk
//
// A plugin may serve one disk under any name, and in any size. The default export
// may be any other one: what a client writes to it is forgotten of all others, and
// what is written to another one is forgotten of it. That is done before the layer
// below is asked, and again when it has answered, as what was read meanwhile is old
// or new. Where the layer below gives the default export a name, a client that asks for
// "" gets that one.
//
// Clients think of names as they like, and what they have read is known when they
// have gone. A write must not tell all of these. So an image that nobody has open
// forgets all that it knows when a client writes to the default export, and is not
// told again: filter.knowing are the images that may know something.
//
// None is missed. An image is in the set before its client's first request, and a
// write looks at the set when the layer below has answered. Who is there by then is
// told, and who comes later reads what was written. And an image leaves the set only
// when it has forgotten, and nobody has opened it since that began: until then other
// writes wait for it as well.

// A twin is an image that may be the same disk as another one.
type twin struct {
	*image
	isIdle bool // nobody has it open
	opened int  // how often somebody has opened it by then

	ticket uint64
	result int // that is to be withdrawn
}

// overwritten tells the images that may be the same disk that a client begins or
// ends a change of [lo, hi).
func (f *filter) overwritten(im *image, lo, hi int64) {
	if !f.several.Load() {
		return
	}
	// What lies behind the end of one changes nothing of it.
	twins := slices.DeleteFunc(f.twins(im), func(t twin) bool { return !t.isIdle && lo >= t.size })
	defer func() {
		if v := recover(); v != nil {
			for _, t := range twins { // which may be listed as being written for ever
				t.fail(fmt.Sprintf("internal error: %v", v))
			}
			panic(v)
		}
	}()
	isTold := false
	for i := range twins {
		t := &twins[i]
		if t.isIdle {
			t.ticket, t.result = t.beginForgetting(0, t.size)
		} else {
			t.ticket, t.result = t.beginForgetting(lo, hi)
		}
		isTold = isTold || t.result > 0
	}
	if isTold {
		f.publish() // once: they may be many
	}
	for _, t := range twins {
		t.endForgetting(t.ticket, t.result)
	}
	f.dismiss(twins)
}

func (f *filter) twins(im *image) (twins []twin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mayBeDefault(im.export) {
		for other := range f.knowing {
			if other != im {
				twins = append(twins, twin{image: other, isIdle: other.users == 0, opened: other.opened})
			}
		}
		return twins
	}
	// The default export is one, or few: they forget no more than they must.
	add := func(name string) {
		if other := f.images[name]; f.knowing[other] && other != im {
			twins = append(twins, twin{image: other})
		}
	}
	add("")
	add(im.export)
	for name := range f.defaults {
		add(name)
	}
	return twins
}

// mayBeDefault tells whether clients that ask for the default export may get this one.
func (f *filter) mayBeDefault(export string) bool {
	return export == "" || f.defaults[export] || len(f.defaults) >= maxDefaults
}

// maxDefaults is how many names of the default export are told apart: a layer may
// think of others for each client.
const maxDefaults = 100

// DefaultExport is told when a client asks for the default export. Others may have
// written before, when nobody knew which one that is.
func (f *filter) DefaultExport(name string) {
	for _, im := range f.learnDefault(name) {
		if im.isChanged() {
			f.overwritten(im, 0, math.MaxInt64)
		}
	}
}

// learnDefault notes a name of the default export. If it is new, it returns all images.
func (f *filter) learnDefault(name string) []*image {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mayBeDefault(name) {
		return nil
	}
	f.defaults[name] = true
	return slices.Collect(maps.Values(f.images))
}

// lookForDefault notes the name that nbdkit's exportname filter in front gives the
// default export: then nobody asks the layers behind it.
func (f *filter) lookForDefault() {
	if !nbdkit.IsBehind("exportname") {
		return
	}
	line, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		return // IsBehind has read it
	}
	for word := range strings.SplitSeq(string(line), "\x00") {
		for _, key := range []string{"default-export=", "default_export="} {
			if name, ok := strings.CutPrefix(word, key); ok {
				f.learnDefault(name)
			}
		}
	}
}

// dismiss takes those out of the set that have forgotten all.
func (f *filter) dismiss(twins []twin) {
	for _, t := range twins {
		if t.isIdle {
			f.mu.Lock()
			if t.opened == t.image.opened {
				f.knows(t.image, false)
			}
			f.mu.Unlock()
		}
	}
}

// use counts a user of an image: from now on it may come to know something.
func (f *filter) use(im *image) {
	im.users++
	im.opened++
	f.knows(im, true)
}

// knows notes whether an image may know something.
func (f *filter) knows(im *image, something bool) {
	if something {
		f.knowing[im] = true
	} else {
		delete(f.knowing, im)
	}
	f.several.Store(len(f.knowing) > 1)
}
