// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

// maxWork bounds the bytes that a view hands out for one image, at which
// identify takes a few milliseconds: see BenchmarkIdentify.
const maxWork = 8 << 20

// fuzzReader is the part of an image behind the first MiB: nothing but its
// tail, over and over, so that whatever a header points to has content.
type fuzzReader struct {
	tail []byte
	size int64
}

func (f fuzzReader) ReadAt(p []byte, offset int64) (int, error) {
	n := int64(len(f.tail))
	for i := range p {
		if n > 0 {
			p[i] = f.tail[n-1-(f.size-1-offset-int64(i))%n]
		}
	}
	return len(p), nil
}

// Whatever the bytes are and however large the image is: no panic, no read
// outside of the image or of what is known, not too much work, a kind, and
// text for the log that is one printable line.
func FuzzIdentify(f *testing.F) {
	for _, s := range samples {
		start := bytes.TrimRight(s.image[:min(len(s.image), 70000)], "\x00")
		f.Add(start, int64(len(s.image)), s.image[max(0, len(s.image)-512):])
	}
	f.Add(craftVMDK(vmdkDescriptorText)[:1024], int64(1<<40), []byte{})
	f.Add([]byte(gzipped("<html>", gzip.Header{Name: "n"})), int64(0), []byte{})
	f.Add(craft(193<<10, patch{0, "vhdxfile"}, patch{192 << 10, "regi\x00\x00\x00\x00\x02"},
		patch{192<<10 + 16, vhdxMetadataRegion + le64(1<<20)}), int64(1<<62), []byte("metadata\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, prefix []byte, size int64, tail []byte) {
		size = max(size, int64(len(prefix)+len(tail)))
		if size < 0 {
			return
		}
		r := io.ReaderAt(fuzzReader{tail, size})
		if len(prefix) > prefixSize {
			prefix = prefix[:prefixSize]
		}
		if missing := min(size, prefixSize) - int64(len(prefix)); missing > 0 {
			prefix = append(bytes.Clone(prefix), make([]byte, missing)...)
			if size <= prefixSize {
				copy(prefix[int(size)-len(tail):], tail)
			}
		}
		s := mustIdentify(t, prefix, size, r)
		if len(s.kinds) == 0 {
			t.Fatal("there is no kind")
		}
		if work := workOf(t, prefix, size, r); work > maxWork {
			t.Fatalf("%d bytes are looked at", work)
		}
		said := append(append([]string{s.head, s.String()}, s.warnings...), s.dangers...)
		for _, policy := range []string{"sane", "known", "rar"} {
			p, _ := parseSignaturePolicy(policy)
			if err := p.check(s, size); err != nil {
				said = append(said, err.Error())
			}
		}
		if err := s.unsafe(); err != nil {
			said = append(said, err.Error())
		}
		for _, line := range said {
			if line == "" || strings.Trim(line, printableASCII) != "" {
				t.Fatalf("not a printable line: %q", line)
			}
		}
	})
}

var printableASCII = func() string {
	var s []byte
	for b := byte(' '); b <= '~'; b++ {
		s = append(s, b)
	}
	return string(s)
}()

// workOf runs what identify does, and counts.
func workOf(t testing.TB, prefix []byte, size int64, r io.ReaderAt) int64 {
	t.Helper()
	v := newView(prefix, size, r)
	found := v.find()
	v.findDangers(found)
	v.warn(found)
	v.rowless()
	return v.looked
}

func FuzzSignaturePolicy(f *testing.F) {
	f.Add("sane")
	f.Add("qcow2,disk")
	f.Add("QCOW2,\x00\n")
	page, disk := identifyBytes(f, sample("html")), identifyBytes(f, sample("gpt"))
	f.Fuzz(func(t *testing.T, value string) {
		p, err := parseSignaturePolicy(value)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") || p.wanted != nil {
				t.Fatalf("%q: %v", err, p)
			}
			return
		}
		for _, s := range []signature{page, disk} {
			if err := p.check(s, 1<<20); err != nil && strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("%q", err)
			}
		}
	})
}

// The images that cost most, each of a full MiB. One takes a few
// milliseconds, which bounds the time that a client waits for the door.
var costly = map[string][]byte{
	"blank":         make([]byte, 2<<20),
	"random":        bytes.Repeat([]byte("\x8f\x01\xe7"), 700<<10),
	"text":          bytes.Repeat([]byte("x"), 2<<20),
	"extensions":    craft(2<<20, patch{0, "QFI\xfb" + be32(3)}, patch{20, be32(21)}, patch{100, be32(104)}, patch{104, strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", 131000)}),
	"version lines": []byte("# Disk DescriptorFile\n" + strings.Repeat("\n", 1<<20)),
	"words":         []byte("# Disk DescriptorFile\n" + strings.Repeat("a=parentcid=ffffffff\n", 50000)),
	"extents":       []byte("# Disk DescriptorFile\n" + strings.Repeat("RW 1 SPARSE \"a\"\n", 65000)),
	"embedded":      craft(2<<20, patch{0, string(craftVMDK(""))}, patch{36, le64(2048)}, patch{512, strings.Repeat("rw 1 sparse \"a\"\n", 65000)}),
	"comments":      []byte(strings.Repeat("<!---->", 1<<20/7)),
	"empty blocks":  []byte("\x1f\x8b\x08\x00......" + strings.Repeat("\x00\x00\x00\xff\xff", 200000)),
	"a bomb":        []byte(gzipped(strings.Repeat("\x00", 64<<20), gzip.Header{})),
}

func TestWorkIsBounded(t *testing.T) {
	for name, image := range costly {
		prefix := image[:min(len(image), prefixSize)]
		if work := workOf(t, prefix, int64(len(image)), bytes.NewReader(image)); work > maxWork {
			t.Errorf("%s: %d bytes are looked at", name, work)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	for name, image := range costly {
		prefix := image[:min(len(image), prefixSize)]
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				identify(prefix, int64(len(image)), bytes.NewReader(image))
			}
		})
	}
}

// Numbers are read up to the last byte of an image, and are 0 behind it.
func TestNumbersAtTheEndOfAnImage(t *testing.T) {
	v := newView([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 8, nil)
	for i, got := range []uint64{uint64(v.u8(7)), uint64(v.le16(6)), uint64(v.be16(6)), uint64(v.le32(4)), uint64(v.be32(4)), v.le64(0), v.be64(0)} {
		if want := []uint64{8, 0x807, 0x708, 0x8070605, 0x5060708, 0x807060504030201, 0x102030405060708}[i]; got != want {
			t.Errorf("number %d is %#x, want %#x", i, got, want)
		}
	}
	if v.u8(8) != 0 || v.le16(7) != 0 || v.be32(5) != 0 || v.le64(1) != 0 {
		t.Error("a number is read behind the end")
	}
}

// at hands out what is there and affordable, and nothing else.
func TestViewIsBounded(t *testing.T) {
	const size = 8 << 20
	image := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	r := &strictReader{t: t, r: bytes.NewReader(image), known: prefixSize, size: size}
	v := newView(image[:prefixSize], size, r)
	for _, ask := range []struct{ offset, n int64 }{
		{0, 0}, {0, prefixSize}, {100, 7}, {size - 512, 512}, {size, 0}, {size - tailSize, tailSize},
		{prefixSize - 3, 10}, {prefixSize, 10}, {prefixSize + 1, 1000}, {size - 2000, 2000},
	} {
		if got := v.at(ask.offset, ask.n); got == nil || !bytes.Equal(got, image[ask.offset:ask.offset+ask.n]) {
			t.Errorf("%d bytes at %d are wrong", ask.n, ask.offset)
		}
	}
	for _, ask := range []struct{ offset, n int64 }{
		{-1, 1}, {0, -1}, {size, 1}, {size + 1, 0}, {0, size + 1}, {1 << 62, 1 << 62}, {2 << 20, maxReadSize + 1}, {0, size},
	} {
		if v.at(ask.offset, ask.n) != nil {
			t.Errorf("there are %d bytes at %d", ask.n, ask.offset)
		}
	}
	for range 2 * maxReads {
		v.at(2<<20, 1)
	}
	if r.calls != maxReads {
		t.Errorf("there were %d reads, want %d", r.calls, maxReads)
	}
	r = &strictReader{t: t, r: r.r, known: prefixSize, size: size}
	v = newView(image[:prefixSize], size, r)
	if v.at(2<<20, maxReadSize-tailSize-1000) == nil || v.at(2<<20, 1001) != nil || v.at(2<<20, 1000) == nil || v.err != nil {
		t.Errorf("%d bytes were read in %d reads, error %v", r.bytes, r.calls, v.err)
	}
}

// farHeaders are the starts of containers that lead to 2 MiB.
var farHeaders = map[string][]patch{
	"vhd":  {{0, "conectix"}, {16, be64(2 << 20)}, {60, be32(vhdDynamic)}},
	"vhdx": {{0, "vhdxfile"}, {vhdxRegionTable, "regi"}, {vhdxRegionTable + 8, le32(1)}, {vhdxRegionTable + 16, vhdxMetadataRegion + le64(2<<20)}},
}

type failingReader struct{ err error }

func (f failingReader) ReadAt(p []byte, _ int64) (int, error) { return 0, f.err }

func TestErrorOfTheReader(t *testing.T) {
	broken := errors.New("input/output error")
	if _, err := identify(make([]byte, prefixSize), 2<<20, failingReader{broken}); !errors.Is(err, broken) {
		t.Errorf("the error is %v, want %v", err, broken)
	}
	// What a header leads to is not there then, which is no panic.
	for _, container := range []string{"vhd", "vhdx"} {
		image := patched(craft(3<<20), farHeaders[container]...)
		if s, err := identify(image[:prefixSize], 3<<20, failingReader{broken}); !errors.Is(err, broken) || s.String() != container {
			t.Errorf("the error of a %s is %v, want %v", s, err, broken)
		}
	}
	for _, short := range []error{nil, io.EOF} {
		if _, err := identify(make([]byte, prefixSize), 2<<20, failingReader{short}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the error is %v, want %v", err, io.ErrUnexpectedEOF)
		}
	}
	if _, err := identify(make([]byte, prefixSize), prefixSize, failingReader{broken}); err != nil {
		t.Errorf("nothing had to be read, but the error is %v", err)
	}
}

// An ordinary large image costs one read, of its end.
func TestOneReadSuffices(t *testing.T) {
	for _, kind := range []string{"gpt", "ext", "qcow2", "blank", "xz"} {
		image := append(bytes.Clone(sample(kind)), make([]byte, 3<<20)...)
		r := &strictReader{t: t, r: bytes.NewReader(image), known: prefixSize, size: int64(len(image))}
		if _, err := identify(image[:prefixSize], r.size, r); err != nil || r.calls != 1 || r.bytes != tailSize {
			t.Errorf("%s: %d bytes in %d reads, error %v", kind, r.bytes, r.calls, err)
		}
	}
}
