// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notes on waiting
//
// A thread of nbdkit that calls into Go is bound to the goroutine that serves
// it. When that one blocks in sync.Mutex or on a channel, Go's scheduler passes
// its processor to another thread, and passes it back later: several switches
// of threads, where the kernel's futex takes one. With the many small requests
// of many threads, most of their time went there. Besides, sync.Mutex hands a
// lock that was waited for long to the one that waits, and then all threads go
// through it one by one; this one can be had by whoever comes.

// From linux/futex.h: operations on a word of this process only.
const (
	futexWaitPrivate = 0 | 128
	futexWakePrivate = 1 | 128
)

// futexWait sleeps while word is value, until futexWake, the timeout if it is
// not 0, or for no reason.
func futexWait(word *atomic.Uint32, value uint32, timeout time.Duration) {
	var limit *unix.Timespec
	if timeout > 0 {
		t := unix.NsecToTimespec(int64(timeout))
		limit = &t
	}
	// Go's scheduler has to know, or its garbage collector would wait for this
	// thread.
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitPrivate, uintptr(value),
		uintptr(unsafe.Pointer(limit)), 0, 0)
}

// futexWake wakes one thread that waits on word.
func futexWake(word *atomic.Uint32) {
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakePrivate, 1, 0, 0, 0)
}

// A mutex is a lock for what the threads of nbdkit share. Its zero value is
// free. It is the third one of Ulrich Drepper's "Futexes Are Tricky".
type mutex struct {
	state atomic.Uint32
}

// The states of a mutex.
const (
	mutexFree = iota
	mutexHeld
	mutexAwaited // held, and there may be threads that wait
)

// mutexTries is how often a thread looks again before it sleeps: about as long
// as the lock is held.
const mutexTries = 100

func (m *mutex) Lock() {
	if !m.state.CompareAndSwap(mutexFree, mutexHeld) {
		m.wait()
	}
}

func (m *mutex) wait() {
	for range mutexTries {
		if m.state.Load() == mutexFree && m.state.CompareAndSwap(mutexFree, mutexHeld) {
			return
		}
	}
	for m.state.Swap(mutexAwaited) != mutexFree {
		futexWait(&m.state, mutexAwaited, 0)
	}
}

func (m *mutex) Unlock() {
	switch m.state.Swap(mutexFree) {
	case mutexAwaited:
		futexWake(&m.state)
	case mutexFree:
		panic("unlock of a mutex that is not locked")
	}
}

// An event is something that one thread waits for. Its zero value has not
// happened.
type event struct {
	word atomic.Uint32 // 1 when it has happened
}

func (e *event) happened() bool { return e.word.Load() != 0 }

func (e *event) reset() { e.word.Store(0) }

func (e *event) signal() {
	e.word.Store(1)
	futexWake(&e.word)
}

// wait returns when the event has happened, or after the timeout.
func (e *event) wait(timeout time.Duration) {
	for end := time.Now().Add(timeout); !e.happened() && timeout > 0; timeout = time.Until(end) {
		futexWait(&e.word, 0, timeout)
	}
}

// atATime is how many bytes a client's thread hashes before it gives way.
const atATime = 256 << 10

// giveWay lets threads that wait for this processor have it first. The kernel
// lets one that computes go on for about a millisecond. Meanwhile those that move
// data through a socket, and have to wake each other for every 200 KiB of it, get
// nowhere: on two processors, qemu-img takes 1.35 times as long as without the
// filter, instead of 1.15. If nobody waits, it takes 0.2 us.
//
// Those are back soon, after 0.3 ms as a rule. Where another program computes, to
// give way is to give up: that one takes all the time that the kernel lets it, and
// on a host whose processors are all busy a copy would take 1.5 times as long,
// instead of 1.2. So when it takes long, it is done now and then only, to see
// whether it still does.
func giveWay() {
	now := time.Since(epoch)
	if way.isOpen(now) {
		yield()
		way.took(now, time.Since(epoch))
	}
}

func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// A giver knows how long it takes to give way. Times are since epoch. When two
// threads count at once, one of the two may be lost.
type giver struct {
	mean   atomic.Int64 // nanoseconds, of about the last wayCount times
	closed atomic.Int64 // until when nobody gives way, in nanoseconds
}

const (
	longWay  = 3 * time.Millisecond / 2
	wayCount = 16
	noWay    = 50 * time.Millisecond
)

var (
	way   giver
	epoch = time.Now()
)

func (g *giver) isOpen(now time.Duration) bool { return int64(now) >= g.closed.Load() }

// took counts one time.
func (g *giver) took(from, to time.Duration) {
	mean := g.mean.Load()
	mean += (int64(to-from) - mean) / wayCount
	g.mean.Store(mean)
	if mean > int64(longWay) {
		g.closed.Store(int64(to + noWay))
	}
}
