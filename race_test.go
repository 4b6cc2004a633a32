//go:build race

package main

// rounds is how many of n rounds a test makes that has one thread: the race
// detector takes ten times as long, and finds nothing there.
func rounds(n uint64) uint64 { return (n + 3) / 4 }
