// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"slices"
	"time"

	"nbdkit-digest-filter/nbdkit"
)

// Notes on final answers
//
// A client that reads .digest-final completes the digest in its own request,
// on a context of the layer below that belongs to its connection: there it has
// whatever right to call the layer that requests have. If the layers below are
// not parallel, the request reads alone, on its own thread, and holds whatever
// lock nbdkit keeps other requests out with.
//
// One client at a time does this for an export; others wait, and find it done.
// nbdkit does not tell a callback that its client has gone, so the work goes
// on for them, and what is read is known to all. A signal that ends nbdkit
// ends it, and so does another size of the source: what was begun for the image
// that has gone is of no use, and nobody waits for it.

// An opener opens the layer below for a final answer. It tells whether that has TLS as
// far as the layer knows.
type opener func(export string) (context *nbdkit.Context, tls bool, err error)

// opener is called when a final answer is opened, because only then nbdkit knows
// which export of the layer below is the default one: if that will have to be read,
// it is opened now for a moment.
func (f *filter) opener(exports []string, tls bool) opener {
	im := f.opened("")
	if !slices.Contains(exports, "") || f.conf.unread == skip || im != nil && !im.canBeCompleted() {
		return func(export string) (*nbdkit.Context, bool, error) {
			if export == "" {
				context, err := nbdkit.OpenShared(export) // a client has, so it is safe
				return context, false, err
			}
			context, err := nbdkit.OpenBelow(export)
			return context, tls, err
		}
	}
	context, noDefault := nbdkit.OpenBelow("")
	if noDefault == nil {
		context.Close()
	}
	return func(export string) (*nbdkit.Context, bool, error) {
		if export == "" && noDefault != nil {
			return nil, tls, noDefault
		}
		context, err := nbdkit.OpenBelow(export)
		return context, tls, err
	}
}

// finals completes exports, and returns the last word on each.
func (f *filter) finals(exports []string, open opener) []result {
	results := make([]result, len(exports))
	for i, export := range exports {
		err := f.complete(export, open, nbdkit.Stopping)
		r := f.query(export)
		r.Estimate = nil
		if r.State == pending {
			r.State = incomplete
			if err != nil {
				r.Error = err.Error()
			}
		}
		results[i] = r
	}
	return results
}

// complete reads what is unknown of an export.
func (f *filter) complete(export string, open opener, shutdown func() bool) error {
	done := f.takeTurn(export)
	defer done()
	if im := f.opened(export); im != nil && !im.canBeCompleted() {
		if im.finishedOrFailed() { // not while a writer is connected: it may go on
			im.endDeferral()
		}
		im.touch()
		return nil
	}
	if f.conf.unread == skip {
		return nil
	}
	context, tls, err := open(export)
	if err != nil {
		return err
	}
	defer context.Close()
	size, err := context.Size()
	if err != nil {
		return err
	}
	if err := f.conf.checkSize(size); err != nil {
		return err
	}
	im, err := f.image(export, size)
	if err != nil {
		return err
	}
	defer f.release(im)
	defer im.restUnlessVisited()
	if !tls && !im.isSameWithoutTLS(context.Next) {
		im.touch()
		return errWithoutTLS
	}
	if err := im.examine(context); err != nil {
		nbdkit.Error("%v", err)
		return err
	}
	im.touch()
	err = im.complete(context, f.readers(), shutdown)
	if err != nil {
		nbdkit.Error("%v cannot be completed: %v", im, err)
	}
	return err
}

// complete reads what is unknown beside clients that may be at work. It ends
// early when one of them begins to write, or finds that the size has changed.
func (im *image) complete(next layer, readers int, shutdown func() bool) error {
	for im.canBeCompleted() {
		im.endDeferral() // whoever asks wants to know what is there now
		pass := endPass{im: im, next: next, interrupted: func() bool {
			return shutdown() || !im.canBeCompleted()
		}}
		err := pass.run(readers)
		switch {
		case shutdown():
			return errInterrupted
		case err != nil && !errors.Is(err, errInterrupted) && !im.hasEnded():
			return err
		}
		// All is taken, but the threads of clients may still be hashing.
		if im.canBeCompleted() {
			time.Sleep(othersPause)
		}
	}
	if im.hasEnded() && !shutdown() {
		return errResized
	}
	return nil
}

// canBeCompleted tells whether reading would help.
func (im *image) canBeCompleted() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.sums == nil && im.failure == "" && im.writers == 0 && !im.ended
}

// errWithoutTLS is why an image that clients with TLS have read is not completed without.
var errWithoutTLS = errors.New("without TLS, the layer below may have another image, or none")

// errResized is why an image that is being completed will have no digest: there is
// another one in its place.
var errResized = errors.New("its size has changed meanwhile: ask again")

func (im *image) hasEnded() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.ended
}

// takeTurn waits until nobody else completes an export, and keeps others from
// it until done is called.
func (f *filter) takeTurn(export string) (done func()) {
	q := &f.queries
	for {
		q.mu.Lock()
		turn := q.turns[export]
		if turn == nil {
			break
		}
		q.mu.Unlock()
		<-turn
	}
	defer q.mu.Unlock()
	if q.turns == nil {
		q.turns = make(map[string]chan struct{})
	}
	turn := make(chan struct{})
	q.turns[export] = turn
	return func() { q.endTurn(export, turn) }
}

// endTurn lets the next one complete an export, if it is still that turn.
func (q *queries) endTurn(export string, turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if turn != nil && q.turns[export] == turn {
		delete(q.turns, export)
		close(turn)
	}
}

// endTurnOf ends whatever turn there is for an export: its image has gone, and the
// one who completes that may still wait for the layer below.
func (q *queries) endTurnOf(export string) {
	q.mu.Lock()
	turn := q.turns[export]
	q.mu.Unlock()
	q.endTurn(export, turn)
}
