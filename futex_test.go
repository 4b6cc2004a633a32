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
