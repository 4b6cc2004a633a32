// SPDX-License-Identifier: BSD-3-Clause

package deploy

import (
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The Jobs of sidecar.yaml: a wrong copy never passes as good, and the termination
// message says why.

func TestPodImportsTheRightImageOrNone(t *testing.T) {
	t.Parallel()
	right, other := makeEdition(t, 1), makeEdition(t, 2)
	for _, c := range []struct {
		what    string
		handler http.Handler
		dies    bool   // halfway, and comes back
		again   bool   // there is another Pod
		message string // of the main container
		log     string // of the sidecar
	}{
		{what: "the right image", handler: file(right.qcow2), message: "sha256:" + right.sum},
		{what: "a server that dies halfway and comes back", handler: file(right.qcow2), dies: true, message: "sha256:" + right.sum, log: "curl"},
		{what: "another image", handler: file(other.qcow2),
			message: "digest mismatch: sha256 expected " + right.sum + " got " + other.sum, log: "expected " + right.sum + " got " + other.sum},
		{what: "an error page", handler: page(http.StatusOK), again: true, message: "it is html (text)", log: "it is html (text)"},
		{what: "an error", handler: page(http.StatusServiceUnavailable), again: true, message: "503", log: "503"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			web := publishMortal(t, c.handler, c.dies)
			k := kubeletFor(t, "import-disk", web.url(), "sha256:"+right.sum)
			sidecar := k.startSidecar()
			good := strings.HasPrefix(c.message, "sha256:")

			main := k.start(k.spec.Containers[0])
			status := main.wait()
			t.Logf("exit status %d, message: %s", status, main.message())
			if good != (status == 0) {
				t.Errorf("exit status %d\n%s\n%s", status, main.log.String(), contents(t, k.messageFile(main.spec)))
			}
			if !strings.Contains(main.message(), c.message) {
				t.Errorf("the message is\n%s\nwithout %q", main.message(), c.message)
			}
			if content, there := k.copied(); there != good || good && content != right.content {
				t.Errorf("there is a disk: %v, of %d bytes", there, len(content))
			}
			if again := k.tries(main.spec, status); again != c.again {
				t.Errorf("with exit status %d the Job goes on: %v", status, again)
			}

			if status := sidecar.stop(); good && status != 0 {
				t.Errorf("%s: exit status %d", sidecar.spec.Name, status)
			}
			if c.again {
				k.newPod()
				second := k.startSidecar()
				if status := k.start(k.spec.Containers[0]).wait(); status == 0 {
					t.Error("the second attempt does not fail")
				}
				if _, there := k.copied(); there {
					t.Error("there is a disk after the second attempt")
				}
				second.stop()
			}
			t.Logf("sidecar: %s", sidecar.log.String())
			if !strings.Contains(sidecar.log.String(), c.log) {
				t.Errorf("the sidecar's log is\n%s\nwithout %q", sidecar.log.String(), c.log)
			}
			if good {
				if state := stateIn(t, contents(t, filepath.Join(k.volume("nbd"), "digest.json"))); state != "complete" {
					t.Errorf("the result is %s", state)
				}
			}
			k.checkVolumes()
		})
	}
}

// A server that stays away for longer than nbdkit is patient, an nbdkit that is killed,
// and a volume that is full: the next Pod makes the disk.
func TestJobRecovers(t *testing.T) {
	t.Parallel()
	right := makeEdition(t, 1)
	const small = "trap '' XFSZ; ulimit -f 2048; " // as if the volume were
	for _, c := range []struct {
		what    string
		trouble func(web *publisher, k *kubelet, sidecar *running)
		repair  func(web *publisher, k *kubelet)
		message string
	}{
		{"server stays away", func(web *publisher, _ *kubelet, _ *running) { web.dieAfter(6<<20, 0) },
			func(web *publisher, _ *kubelet) { web.start() }, "connect"},
		{"nbdkit is killed", func(_ *publisher, _ *kubelet, sidecar *running) {
			sidecar.cmd.Process.Kill()
			sidecar.wait()
		}, func(*publisher, *kubelet) {}, "Connection refused"},
		{"no room", func(_ *publisher, k *kubelet, _ *running) {
			k.spec.Containers[0].Args[0] = small + k.spec.Containers[0].Args[0]
		}, func(_ *publisher, k *kubelet) {
			k.spec.Containers[0].Args[0] = strings.TrimPrefix(k.spec.Containers[0].Args[0], small)
		}, "too large"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			web := publish(t, file(right.qcow2))
			k := kubeletFor(t, "import-disk", web.url(), "sha256:"+right.sum)
			script := &k.spec.InitContainers[0].Args[0]
			*script = strings.Replace(*script, `curl "$URL"`, `curl "$URL" retries=1 retry-delay=1`, 1)
			sidecar := k.startSidecar()
			c.trouble(web, k, sidecar)
			main := k.start(k.spec.Containers[0])
			if status := main.wait(); !k.tries(main.spec, status) {
				t.Errorf("exit status %d, and the Job ends", status)
			}
			t.Logf("message: %s", main.message())
			if !strings.Contains(main.message(), c.message) {
				t.Errorf("the message is\n%s\nwithout %q", main.message(), c.message)
			}
			if _, there := k.copied(); there {
				t.Error("there is a disk")
			}
			syscall.Kill(-sidecar.cmd.Process.Pid, syscall.SIGKILL) // with its shell's tee
			sidecar.wait()
			c.repair(web, k)
			k.newPod()
			k.startSidecar()
			main = k.start(k.spec.Containers[0])
			main.wait()
			if main.message() != "sha256:"+right.sum+"\n" {
				t.Errorf("the message is\n%s", main.message())
			}
			if content, _ := k.copied(); content != right.content {
				t.Error("the copy is not the image")
			}
		})
	}
}

func TestJobVerifiesAURL(t *testing.T) {
	t.Parallel()
	right, other := makeEdition(t, 1), makeEdition(t, 2)
	for _, c := range []struct {
		what    string
		handler http.Handler
		dies    bool
		good    bool
		message string
	}{
		{what: "the right image", handler: file(right.qcow2), good: true, message: "SHA256 (-) = " + right.sum + "\n"},
		{what: "a server that dies halfway and comes back", handler: file(right.qcow2), dies: true, good: true,
			message: "SHA256 (-) = " + right.sum + "\n"},
		{what: "another image", handler: file(other.qcow2), message: "expected " + right.sum + " got " + other.sum},
		{what: "an error page", handler: page(http.StatusOK), message: "it is html (text)"},
		{what: "an error", handler: page(http.StatusServiceUnavailable), message: "503"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			web := publishMortal(t, c.handler, c.dies)
			k := kubeletFor(t, "verify-url", web.url(), "sha256:"+right.sum)
			main := k.start(k.spec.Containers[0])
			status := main.wait()
			t.Logf("exit status %d, message: %s", status, main.message())
			if c.good != (status == 0) {
				t.Errorf("exit status %d\n%s", status, main.log.String())
			}
			if !strings.Contains(main.message(), c.message) {
				t.Errorf("the message is\n%s\nwithout %q", main.message(), c.message)
			}
			k.checkVolumes()
		})
	}
}
