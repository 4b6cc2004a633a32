// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Many more threads than processors, some of which hold the lock for long,
// while the garbage collector stops them all: nobody is let in beside another
// one, and nobody is forgotten.
func TestMutexExcludesAndWakes(t *testing.T) {
	const threads, rounds = 32, 2000
	var (
		m     mutex
		inner int // guarded by m
		total int // guarded by m
		wg    sync.WaitGroup
	)
	stop := make(chan struct{})
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	for i := range threads {
		wg.Go(func() {
			runtime.LockOSThread() // as a thread of nbdkit
			defer runtime.UnlockOSThread()
			for j := range rounds {
				m.Lock()
				inner++
				if inner != 1 {
					t.Errorf("%d threads hold the lock", inner)
				}
				if (i+j)%97 == 0 {
					runtime.Gosched()
				}
				total++
				inner--
				m.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	<-collected
	if total != threads*rounds {
		t.Errorf("%d rounds, want %d", total, threads*rounds)
	}
	if m.state.Load() != mutexFree {
		t.Errorf("the lock is in state %d", m.state.Load())
	}
}

func TestUnlockOfAFreeMutexPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	new(mutex).Unlock()
}

// An event that happens before, while and after a thread waits for it.
func TestEventIsNotMissed(t *testing.T) {
	var there, back event
	const rounds = 10_000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range rounds {
			there.wait(time.Hour)
			there.reset()
			back.signal()
		}
	}()
	for range rounds {
		there.signal()
		back.wait(time.Hour)
		back.reset()
	}
	<-done
	if there.wait(time.Millisecond); there.happened() {
		t.Error("the event has happened, nobody has signalled it")
	}
}

func TestGivesWayToThoseThatAreBackSoon(t *testing.T) {
	var g giver
	now := time.Duration(0)
	// tries gives way n times, for so long each, and returns how often it was open.
	tries := func(n int, each time.Duration) (open int) {
		for range n {
			if g.isOpen(now) {
				open++
				g.took(now, now+each)
			}
			now += each + time.Millisecond
		}
		return open
	}
	if open := tries(1000, 500*time.Microsecond); open != 1000 {
		t.Errorf("where others are back soon, way was given %d times of 1000", open)
	}
	g.took(now, now+8*time.Millisecond)
	if open := tries(100, 300*time.Microsecond); open != 100 {
		t.Errorf("after it took long once, way was given %d times of 100", open)
	}
	if open := tries(1000, 3*time.Millisecond); open > 200 {
		t.Errorf("where others compute, way was given %d times of 1000", open)
	}
	tries(1000, 300*time.Microsecond)
	if open := tries(100, 300*time.Microsecond); open != 100 {
		t.Errorf("when they have gone, way was given %d times of 100", open)
	}
}
