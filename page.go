package main

// The pages of the window: hash.go has the design.

// pageSize is the unit of the window: small enough for scattered metadata,
// large enough that locks and map entries do not count.
const pageSize = 64 << 10

// A page holds bytes of the image until all digests have hashed them.
type page struct {
	data    []byte
	users   int  // threads that copy to it, or hash it
	removed bool // from the window, while it was in use
}

// firstPages is how many pages are made at first: enough for a look at an image.
const firstPages = 24

// newPage returns a page that is not in use. When the first ones are not enough,
// all the others are made at once: Go's garbage collector, which begins anew
// whenever the heap has grown by some share, would do so all along while the
// window fills, with the thread that hashes waiting for data. Memory that was not
// used yet is none of the machine's.
func (l *linear) newPage() *page {
	if len(l.spare) == 0 {
		n := min(l.memory.limit, l.size+pageSize-1)/pageSize - l.owned
		if l.owned == 0 {
			n = min(n, firstPages)
		}
		n = max(n, 1)
		l.owned += n
		data, pages := make([]byte, n*pageSize), make([]page, n)
		for i := range pages {
			pages[i].data = data[i*pageSize:][:pageSize:pageSize]
			l.spare = append(l.spare, &pages[i])
		}
	}
	last := len(l.spare) - 1
	p := l.spare[last]
	l.spare = l.spare[:last]
	return p
}

// removePage takes a page out of the window. If a thread still uses it, it is
// not used for other bytes before that one is done.
func (l *linear) removePage(at place) {
	p := *l.pages.val(at)
	l.pages.remove(at)
	l.memory.give(pageSize)
	if p.users > 0 {
		p.removed = true
	} else {
		l.keepSpare(p)
	}
}

// release ends the use of a page by one thread.
func (l *linear) release(p *page) {
	p.users--
	if p.removed && p.users == 0 {
		p.removed = false
		l.keepSpare(p)
	}
}

func (l *linear) keepSpare(p *page) {
	if l.resting {
		l.owned--
	} else {
		l.spare = append(l.spare, p)
	}
}
