// SPDX-License-Identifier: BSD-3-Clause

package deploy

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// A pod is what a manifest runs, and what becomes of it if it fails.
type pod struct {
	meta meta.ObjectMeta
	spec core.PodSpec
	job  batch.JobSpec
}

// manifests reads sidecar.yaml. A field that the API does not know, or that
// stands there twice, is an error.
func manifests(t *testing.T) (pods map[string]pod, claims []string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pods = make(map[string]pod)
	for i, document := range strings.Split(string(text), "\n---\n") {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		strict := func(object any) {
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				t.Errorf("document %d, %s: %v", i, kind.Kind, err)
			}
		}
		switch kind.APIVersion + "/" + kind.Kind {
		case "/": // comments
		case "v1/PersistentVolumeClaim":
			var c core.PersistentVolumeClaim
			strict(&c)
			claims = append(claims, c.Name)
		case "batch/v1/Job":
			var j batch.Job
			strict(&j)
			pods[j.Name] = pod{j.Spec.Template.ObjectMeta, j.Spec.Template.Spec, j.Spec}
		default:
			t.Errorf("document %d: %s %s", i, kind.APIVersion, kind.Kind)
		}
	}
	if len(pods) != 2 || len(claims) != 1 {
		t.Fatalf("%d pods and %d claims", len(pods), len(claims))
	}
	return pods, claims
}

func (p pod) containers() []core.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

// The check is the one of Kubernetes' own admission controller.
func TestPodsPassPodSecurityRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	pods, _ := manifests(t)
	for name, p := range pods {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &p.meta, &p.spec))
		if !result.Allowed {
			t.Errorf("%s: %s", name, result.ForbiddenDetail())
		}
	}
}

func TestVolumesAndMountsBelongTogether(t *testing.T) {
	pods, claims := manifests(t)
	for name, p := range pods {
		used := make(map[string]bool)
		for _, c := range p.containers() {
			for _, m := range c.VolumeMounts {
				used[m.Name] = true
			}
			if c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s, %s: no limit of memory", name, c.Name)
			}
		}
		for _, v := range p.spec.Volumes {
			if !used[v.Name] {
				t.Errorf("%s: nobody mounts the volume %s", name, v.Name)
			}
			delete(used, v.Name)
			if claim := v.PersistentVolumeClaim; claim != nil && !slices.Contains(claims, claim.ClaimName) {
				t.Errorf("%s: there is no claim %s", name, claim.ClaimName)
			}
		}
		for v := range used {
			t.Errorf("%s: there is no volume %s", name, v)
		}
	}
}

func TestNbdkitIsANativeSidecar(t *testing.T) {
	pods, _ := manifests(t)
	sidecars := pods["import-disk"].spec.InitContainers
	if len(sidecars) != 1 || sidecars[0].RestartPolicy == nil || *sidecars[0].RestartPolicy != core.ContainerRestartPolicyAlways {
		t.Fatalf("%+v", sidecars)
	}
	if sidecars[0].StartupProbe == nil {
		t.Error("the main container may start before the socket is there")
	}
}

// The commands are scripts for a shell.
func TestScriptsAreInOrder(t *testing.T) {
	pods, _ := manifests(t)
	for name, p := range pods {
		for _, c := range p.containers() {
			if len(c.Command) != 2 || c.Command[1] != "-ec" || len(c.Args) != 1 {
				t.Errorf("%s, %s: the command is %q with %d arguments", name, c.Name, c.Command, len(c.Args))
				continue
			}
			// SC2016: nbdkit's --run expands $uri. SC2154: URL and DIGEST are
			// in the environment.
			cmd := exec.Command("shellcheck", "--shell="+c.Command[0], "--exclude=SC2016,SC2154", "-")
			cmd.Stdin = strings.NewReader(c.Args[0])
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v\n%s", name, c.Name, err, out)
			}
		}
	}
}

func TestWrapperIsInOrder(t *testing.T) {
	if out, err := exec.Command("shellcheck", wrapper).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
