// SPDX-License-Identifier: BSD-3-Clause

// Package nbd is a client of NBD for tests. It has several requests in flight,
// and is as rude as a test wants: it can stop in the middle of a handshake, and
// go away without a word.
//
// The protocol is that of doc/proto.md of the reference implementation.
package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	serverMagic  = 0x4e42444d41474943 // NBDMAGIC
	optionMagic  = 0x49484156454f5054 // IHAVEOPT
	optReply     = 0x3e889045565a9
	requestMagic = 0x25609513
	simpleReply  = 0x67446698
	structReply  = 0x668e33ef

	optGo         = 7
	optStructured = 8
	optSetMeta    = 10
	optAbort      = 2

	repAck    = 1
	repInfo   = 3
	repMeta   = 4
	repErrors = 1 << 31

	metaContext = "base:allocation"
)

// Commands.
const (
	CmdRead   = 0
	CmdWrite  = 1
	cmdDisc   = 2
	CmdFlush  = 3
	CmdTrim   = 4
	CmdExtent = 7
	CmdZero   = 6
)

// Bits of Client.Flags.
const (
	FlagReadOnly = 1 << 1
	FlagTrim     = 1 << 5
	FlagZero     = 1 << 6
)

// A Client is a connection to one export.
type Client struct {
	Size  int64
	Flags uint16
	// Extents tells whether CmdExtent can be asked.
	Extents bool

	conn       net.Conn
	structured bool

	sending sync.Mutex // held while a request is written

	mu     sync.Mutex // guards all below
	calls  map[uint64]*Call
	cookie uint64
	err    error // why the connection has ended
}

// A Call is a request in flight.
type Call struct {
	Data  []byte // of a read
	Zeros []Zero // of CmdExtent
	Err   error  // a syscall.Errno if the server has answered
	Done  chan struct{}

	offset, count int64
}

// A Zero is a range that reads as zero.
type Zero struct{ Lo, Hi int64 }

// ErrRefused is why a server does not let a client in.
var ErrRefused = errors.New("the server refuses the export")

// Handshake is all that a client says until it can send requests.
func Handshake(export string) []byte {
	b := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = append(b, option(optStructured, nil)...)
	b = append(b, option(optSetMeta, metaQuery(export))...)
	return append(b, option(optGo, goRequest(export))...)
}

func option(code uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, optionMagic)
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func goRequest(export string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	return append(append(b, export...), 0, 0) // no information is asked for
}

func metaQuery(export string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(metaContext)))
	return append(b, metaContext...)
}

// Dial connects to an export on a Unix socket. The handshake must be done
// within the timeout.
func Dial(socket, export string, timeout time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("unix", socket, timeout)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, calls: make(map[uint64]*Call)}
	conn.SetDeadline(time.Now().Add(timeout))
	if err := c.negotiate(export); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	go c.receive()
	return c, nil
}

func (c *Client) negotiate(export string) error {
	var hello [18]byte
	if _, err := io.ReadFull(c.conn, hello[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(hello[:]) != serverMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic {
		return fmt.Errorf("this is no NBD server: %x", hello)
	}
	if _, err := c.conn.Write(Handshake(export)); err != nil {
		return err
	}
	for {
		var head [20]byte
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			return err
		}
		if magic := binary.BigEndian.Uint64(head[:]); magic != optReply {
			return fmt.Errorf("an option's reply begins with %x", magic)
		}
		code, reply := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:])
		data := make([]byte, binary.BigEndian.Uint32(head[16:]))
		if _, err := io.ReadFull(c.conn, data); err != nil {
			return err
		}
		switch {
		case reply&repErrors != 0 && code == optGo:
			c.conn.Write(option(optAbort, nil))
			return fmt.Errorf("%w: error %d: %s", ErrRefused, reply&^repErrors, data)
		case code == optStructured && reply == repAck:
			c.structured = true
		case code == optSetMeta && reply == repMeta:
			c.Extents = true
		case code == optGo && reply == repInfo && len(data) == 12 && binary.BigEndian.Uint16(data) == 0:
			c.Size = int64(binary.BigEndian.Uint64(data[2:]))
			c.Flags = binary.BigEndian.Uint16(data[10:])
		case code == optGo && reply == repAck:
			return nil
		}
	}
}

// Start sends a request. Data is what is written.
func (c *Client) Start(command uint16, offset, count int64, data []byte) *Call {
	call := &Call{offset: offset, count: count, Done: make(chan struct{})}
	if command == CmdRead {
		call.Data = make([]byte, count)
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		call.Err = c.err
		close(call.Done)
		return call
	}
	c.cookie++
	cookie := c.cookie
	c.calls[cookie] = call
	c.mu.Unlock()

	b := request(command, cookie, offset, count)
	c.sending.Lock()
	defer c.sending.Unlock()
	if _, err := c.conn.Write(append(b, data...)); err != nil {
		c.end(err)
	}
	return call
}

func request(command uint16, cookie uint64, offset, count int64) []byte {
	b := binary.BigEndian.AppendUint32(nil, requestMagic)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	return binary.BigEndian.AppendUint32(b, uint32(count))
}

// Do sends a request and waits for the answer.
func (c *Client) Do(command uint16, offset, count int64, data []byte) *Call {
	call := c.Start(command, offset, count, data)
	<-call.Done
	return call
}

// Read reads a range.
func (c *Client) Read(offset, count int64) ([]byte, error) {
	call := c.Do(CmdRead, offset, count, nil)
	return call.Data, call.Err
}

// Raw sends bytes as they are.
func (c *Client) Raw(b []byte) { c.conn.Write(b) }

// HalfWrite sends the head of a write, and a part of its data.
func (c *Client) HalfWrite(offset, count int64, data []byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.conn.Write(append(request(CmdWrite, 1<<63, offset, count), data...))
}

// Close says goodbye, and waits until the server has hung up.
func (c *Client) Close() {
	c.sending.Lock()
	c.conn.Write(request(cmdDisc, 0, 0, 0))
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		// nbdkit's other threads for the connection wait to read, since 1.40.
		half.CloseWrite()
	}
	c.sending.Unlock()
	c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		c.mu.Lock()
		ended := c.err != nil
		c.mu.Unlock()
		if ended {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.conn.Close()
}

// Drop goes away without a word.
func (c *Client) Drop() {
	c.conn.Close()
	c.end(net.ErrClosed)
}

// end fails all requests in flight.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("the connection has ended: %w", err)
	for cookie, call := range c.calls {
		call.Err = c.err
		close(call.Done)
		delete(c.calls, cookie)
	}
}

// receive takes the replies, in whatever order they come.
func (c *Client) receive() {
	for {
		if err := c.reply(); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) reply() error {
	var head [20]byte
	if _, err := io.ReadFull(c.conn, head[:16]); err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(head[:]); magic {
	case simpleReply:
		cookie := binary.BigEndian.Uint64(head[8:])
		call := c.call(cookie)
		if call == nil {
			return fmt.Errorf("a reply to no request: %x", cookie)
		}
		if e := binary.BigEndian.Uint32(head[4:]); e != 0 {
			call.Err = syscall.Errno(e)
		} else if _, err := io.ReadFull(c.conn, call.Data); err != nil {
			return err
		}
		c.done(cookie, call)
		return nil
	case structReply:
		if _, err := io.ReadFull(c.conn, head[16:]); err != nil {
			return err
		}
		return c.chunk(head)
	default:
		return fmt.Errorf("a reply begins with %x", magic)
	}
}

// chunk takes a part of a structured reply.
func (c *Client) chunk(head [20]byte) error {
	flags, kind := binary.BigEndian.Uint16(head[4:]), binary.BigEndian.Uint16(head[6:])
	cookie := binary.BigEndian.Uint64(head[8:])
	data := make([]byte, binary.BigEndian.Uint32(head[16:]))
	if _, err := io.ReadFull(c.conn, data); err != nil {
		return err
	}
	call := c.call(cookie)
	if call == nil {
		return fmt.Errorf("a reply to no request: %x", cookie)
	}
	switch {
	case kind >= 1<<15: // an error
		call.Err = syscall.Errno(binary.BigEndian.Uint32(data))
	case kind == 1: // data
		at := int64(binary.BigEndian.Uint64(data)) - call.offset
		if at < 0 || at+int64(len(data))-8 > int64(len(call.Data)) {
			return errors.New("data that was not asked for")
		}
		copy(call.Data[at:], data[8:])
	case kind == 5: // block status
		at := call.offset
		for e := data[4:]; len(e) >= 8; e = e[8:] {
			n := int64(binary.BigEndian.Uint32(e))
			if binary.BigEndian.Uint32(e[4:])&2 != 0 {
				call.Zeros = append(call.Zeros, Zero{at, at + n})
			}
			at += n
		}
	}
	if flags&1 != 0 {
		c.done(cookie, call)
	}
	return nil
}

func (c *Client) call(cookie uint64) *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[cookie]
}

func (c *Client) done(cookie uint64, call *Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[cookie] == call {
		delete(c.calls, cookie)
		close(call.Done)
	}
}

// CutOff sends the beginning of a handshake, and hangs up.
func CutOff(socket string, b []byte) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(b)
	return err
}
