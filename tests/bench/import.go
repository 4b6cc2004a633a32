// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const importing = "an import over HTTP"

// importTimes is how many times as many pairs it takes to tell anything: four
// programs share the processors, and imports differ by a third without the filter.
const importTimes = 4

// imports measures what KubeVirt's importer does: nginx serves a qcow2 of
// 0.6 times the size, nbdkit's curl plugin reads it, and qemu-img converts it.
// Without the filter, a checksum needs the file as a whole first.
func (b *bench) imports() error {
	web := filepath.Join(b.dir, "web")
	if err := os.Mkdir(web, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(web)
	raw, qcow2 := filepath.Join(b.dir, "web.img"), filepath.Join(web, "disk.qcow2")
	if err := writeRandom(raw, int64(b.size)*6/10&^0xffff); err != nil {
		return err
	}
	if _, err := b.command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2); err != nil {
		return err
	}
	if err := os.Remove(raw); err != nil {
		return err
	}
	if err := b.prepareImage(); err != nil {
		return err
	}
	sum, err := b.command("sha256sum", qcow2)
	if err != nil {
		return err
	}
	url, stop, err := b.serveHTTP(web)
	if err != nil {
		return err
	}
	defer stop()

	for _, v := range []volume{
		{"to a new file", filepath.Join(b.dir, "new.img"), ""},
		{"to a block volume", b.destination, "-n "},
	} {
		if err := b.importTo(v, url, sum.stdout[:64]); err != nil {
			return err
		}
	}
	return nil
}

// A volume is what the importer copies to: a file that qemu-img makes, or, on a
// block volume, what is there already.
type volume struct {
	name, file string
	options    string // of qemu-img convert
}

// importTo measures the imports to a volume.
func (b *bench) importTo(v volume, url, sha256 string) error {
	convert := "qemu-img convert " + v.options + "-t writeback -f qcow2 -O raw "
	fromNBD := convert + `"$uri" ` + v.file
	plain := []string{"nbdkit", "-r", "-U", "-", "--filter=readahead", "--filter=retry", "curl", "url=" + url, "--run", fromNBD}
	filtered := []string{"nbdkit", "-r", "-U", "-", "--filter=" + b.filter, "--filter=readahead", "--filter=retry", "curl", "url=" + url,
		"digest-expect=sha256:" + sha256, "--run", fromNBD}
	scratch := []string{"sh", "-euc", `curl -s -o scratch.qcow2 "$0"
		echo "$1  scratch.qcow2" | sha256sum --check --quiet
		` + convert + `scratch.qcow2 ` + v.file, url, sha256}
	var ratios, byScratch []float64
	all := [...][]string{plain, filtered, scratch}
	for first := range b.pairs * importTimes {
		// What takes several times as long is told by fewer.
		ways := all[:]
		if first >= b.pairs {
			ways = all[:2]
		}
		var seconds [len(all)]float64
		for turn := range ways {
			i := (first + turn) % len(ways)
			used, err := b.commandIn(b.dir, ways[i]...)
			if err != nil {
				return err
			}
			seconds[i] = used.wall
			os.Remove(filepath.Join(b.dir, "scratch.qcow2"))
			if v.options == "" {
				os.Remove(v.file)
			}
		}
		ratios = append(ratios, seconds[1]/seconds[0])
		if len(ways) == len(all) {
			byScratch = append(byScratch, seconds[2]/seconds[0])
		}
	}
	b.printf("\n%s of a qcow2 with digest-expect, %s: ratio %s, want <= 1.2: %s\n", importing, v.name,
		spread(ratios), b.verdict(median(ratios) <= 1.2))
	b.printf("%s, %s, through scratch space and sha256sum: ratio %s\n", importing, v.name, spread(byScratch))
	b.bars = append(b.bars, bar{"import, " + v.name, median(ratios), median(byScratch)})
	return nil
}

// serveHTTP starts nginx on a port of its own.
func (b *bench) serveHTTP(dir string) (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address := l.Addr().String()
	l.Close()
	conf, log := filepath.Join(b.dir, "nginx.conf"), filepath.Join(b.dir, "nginx.log")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log %[2]s; events { }
http { access_log off; sendfile on; client_body_temp_path %[1]s/n1; proxy_temp_path %[1]s/n2;
fastcgi_temp_path %[1]s/n3; uwsgi_temp_path %[1]s/n4; scgi_temp_path %[1]s/n5;
server { listen %[3]s; root %[4]s; } }
`, b.dir, log, address, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(b.ctx, "/usr/sbin/nginx", "-e", log, "-c", conf)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for range 1000 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return "http://" + address + "/disk.qcow2", stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("nginx does not answer at %s: see %s", address, log)
}
