// SPDX-License-Identifier: BSD-3-Clause

package tests

import (
	"path/filepath"
	"testing"
)

// Plugins that do what few others do.

// While the filter looks for the layers that it knows, a thread of the plugin's may
// load a library.
func TestPluginThatLoadsLibrariesMeanwhile(t *testing.T) {
	t.Parallel()
	plugin := filepath.Join(t.TempDir(), "nbdkit-loading-plugin.so")
	run(t, "", "gcc", "-shared", "-fPIC", "-pthread", "-o", plugin, "testdata/loading.c")
	for range 5 {
		s := serve(t, "-r", "--filter="+filter, plugin, "signature=any")
		copyAll(t, s.uri())
		s.stop()
	}
}
