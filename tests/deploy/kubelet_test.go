// SPDX-License-Identifier: BSD-3-Clause

package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
)

// A kubelet runs a Pod of sidecar.yaml as Kubernetes' own would, but as plain
// processes: where a container mounts a volume, its words name a directory of
// this test instead.
type kubelet struct {
	t    *testing.T
	job  batch.JobSpec
	spec core.PodSpec // of its Pod
	dir  string       // in it are the volumes, by name, and the termination logs
	env  map[string]string
}

// patience is how long a container may take. nbdkit's retry filter waits for
// up to a minute.
const patience = 90 * time.Second

// terminationLog is where a container leaves its last word. What does not fit
// is cut off by Kubernetes.
const (
	terminationLog   = core.TerminationMessagePathDefault
	terminationLimit = 4096
	// openLog stands for it: as a mount point, it cannot be replaced.
	openLog = "/dev/fd/3"
)

// kubeletFor takes a Pod of the manifests, with an URL and a digest filled in.
func kubeletFor(t *testing.T, name, url, digest string) *kubelet {
	t.Helper()
	if _, err := os.Stat(filter); err != nil {
		t.Fatal("build the filter first, with make: ", err)
	}
	pods, _ := manifests(t)
	dir, err := os.MkdirTemp("", "pod") // a name short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k := &kubelet{t, pods[name].job, pods[name].spec, dir, map[string]string{"URL": url, "DIGEST": digest}}
	k.newPod()
	return k
}

// newPod makes the volumes anew that belong to a Pod, as for the one that a Job starts
// when another one has failed.
func (k *kubelet) newPod() {
	k.t.Helper()
	for _, v := range k.spec.Volumes {
		if v.EmptyDir != nil {
			os.RemoveAll(k.volume(v.Name))
		}
		if err := os.MkdirAll(k.volume(v.Name), 0o777); err != nil {
			k.t.Fatal(err)
		}
	}
}

// tries tells whether the Job starts another Pod after one that ended so.
func (k *kubelet) tries(main core.Container, status int) bool {
	if k.job.PodFailurePolicy != nil {
		for _, r := range k.job.PodFailurePolicy.Rules {
			on := r.OnExitCodes
			if on != nil && on.ContainerName != nil && *on.ContainerName == main.Name && on.Operator == batch.PodFailurePolicyOnExitCodesOpIn &&
				slices.Contains(on.Values, int32(status)) && r.Action == batch.PodFailurePolicyActionFailJob {
				return false
			}
		}
	}
	return status != 0 && k.job.BackoffLimit != nil && *k.job.BackoffLimit > 0
}

func (k *kubelet) volume(name string) string { return filepath.Join(k.dir, name) }

// aPath is an absolute path in a script.
var aPath = regexp.MustCompile(`(?:^|[\s"'=])(/[\w.-][\w./-]*)`)

// command makes a process of a container's words. Paths that no volume is
// mounted at are an error: the root filesystem is for reading only.
func (k *kubelet) command(c core.Container, words []string) *exec.Cmd {
	k.t.Helper()
	places := []string{"--filter=digest", "--filter=" + filter, terminationLog, openLog}
	mounts := slices.Clone(c.VolumeMounts)
	slices.SortFunc(mounts, func(a, b core.VolumeMount) int { return len(b.MountPath) - len(a.MountPath) })
	for _, m := range mounts {
		places = append(places, m.MountPath, k.volume(m.Name))
	}
	rewrite := strings.NewReplacer(places...)

	var rewritten []string
	for _, word := range words {
		for _, path := range aPath.FindAllStringSubmatch(word, -1) {
			mounted := func(m core.VolumeMount) bool { return strings.HasPrefix(path[1]+"/", m.MountPath+"/") }
			if path[1] != terminationLog && !slices.ContainsFunc(mounts, mounted) {
				k.t.Errorf("%s: nothing is mounted at %s", c.Name, path[1])
			}
		}
		rewritten = append(rewritten, rewrite.Replace(word))
	}
	cmd := exec.Command(rewritten[0], rewritten[1:]...)
	cmd.Dir = k.root(c)
	cmd.Env = []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "TMPDIR=" + rewrite.Replace("/tmp")}
	for _, e := range c.Env {
		value := e.Value
		if mine, ok := k.env[e.Name]; ok {
			value = mine
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	return cmd
}

// root is the directory that a container starts in. It stays empty.
func (k *kubelet) root(c core.Container) string {
	dir := filepath.Join(k.dir, "root-"+c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		k.t.Fatal(err)
	}
	return dir
}

func (k *kubelet) messageFile(c core.Container) string {
	return filepath.Join(k.dir, "message-"+c.Name)
}

// A running is a container that was started.
type running struct {
	k      *kubelet
	spec   core.Container
	cmd    *exec.Cmd
	log    bytes.Buffer // complete when exited is closed
	exited chan struct{}
}

func (k *kubelet) start(c core.Container) *running {
	k.t.Helper()
	log, err := os.OpenFile(k.messageFile(c), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	r := &running{k: k, spec: c, cmd: k.command(c, slices.Concat(c.Command, c.Args)), exited: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	r.cmd.ExtraFiles = []*os.File{log}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	go func() {
		r.cmd.Wait()
		close(r.exited)
	}()
	k.t.Cleanup(func() {
		syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		<-r.exited
	})
	return r
}

// startSidecar starts the sidecar, and waits until its probe lets the Pod go
// on.
func (k *kubelet) startSidecar() *running {
	k.t.Helper()
	r := k.start(k.spec.InitContainers[0])
	probe := r.spec.StartupProbe
	for n := int32(0); k.command(r.spec, probe.Exec.Command).Run() != nil; n++ {
		select {
		case <-r.exited:
			k.t.Fatalf("%s ends\n%s", r.spec.Name, r.log.String())
		default:
		}
		if n == probe.FailureThreshold {
			k.t.Fatalf("%s does not start", r.spec.Name)
		}
		time.Sleep(time.Duration(probe.PeriodSeconds) * time.Second)
	}
	return r
}

// wait returns the exit status.
func (r *running) wait() int {
	r.k.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.k.t.Fatalf("%s does not end", r.spec.Name)
	}
	return r.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM, as at the end of the Pod.
func (r *running) stop() int {
	r.k.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.k.t.Fatalf("%s has gone: %v\n%s", r.spec.Name, err, r.log.String())
	}
	return r.wait()
}

// message is what Kubernetes shows for a container that has ended.
func (r *running) message() string {
	r.k.t.Helper()
	text := contents(r.k.t, r.k.messageFile(r.spec))
	if len(text) > terminationLimit {
		r.k.t.Errorf("%s: the message has %d bytes", r.spec.Name, len(text))
	}
	if text == "" && r.spec.TerminationMessagePolicy == core.TerminationMessageFallbackToLogsOnError && r.cmd.ProcessState.ExitCode() != 0 {
		log := r.log.String()
		text = log[max(0, len(log)-2048):]
	}
	return text
}

// checkVolumes looks whether the containers have kept to what is theirs.
func (k *kubelet) checkVolumes() {
	k.t.Helper()
	for _, v := range k.spec.Volumes {
		if v.EmptyDir == nil {
			continue
		}
		var used int64
		filepath.WalkDir(k.volume(v.Name), func(path string, entry fs.DirEntry, err error) error {
			if info, e := entry.Info(); err == nil && e == nil && entry.Type().IsRegular() {
				used += info.Size()
			}
			return nil
		})
		if limit := v.EmptyDir.SizeLimit.Value(); used > limit {
			k.t.Errorf("volume %s: %d bytes are more than %d", v.Name, used, limit)
		}
	}
	for _, c := range slices.Concat(k.spec.InitContainers, k.spec.Containers) {
		if left, err := os.ReadDir(k.root(c)); err != nil || len(left) > 0 {
			k.t.Errorf("%s has written where it may not: %v %v", c.Name, left, err)
		}
	}
}

// copied returns the disk that the Pod has made, if it has made one. Nothing
// else may be left on the volume.
func (k *kubelet) copied() (content string, there bool) {
	k.t.Helper()
	entries, err := os.ReadDir(k.volume("disk"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "disk.img" {
			k.t.Errorf("%s is left on the volume", e.Name())
		}
	}
	b, err := os.ReadFile(filepath.Join(k.volume("disk"), "disk.img"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.t.Fatal(err)
	}
	return string(b), err == nil
}

// stateIn is the state of the one image in a result.
func stateIn(t *testing.T, document string) string {
	t.Helper()
	var d struct{ Images []struct{ State string } }
	if err := json.Unmarshal([]byte(document), &d); err != nil || len(d.Images) != 1 {
		t.Fatalf("no result: %v\n%s", err, document)
	}
	return d.Images[0].State
}
