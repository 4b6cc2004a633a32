// SPDX-License-Identifier: BSD-3-Clause

package docs

// aCopy leaves what the manual shows of a sidecar.
const aCopy = "nbdkit -r -U - --filter=digest file disk.img digest=sha256 digest-name=disk.img --run 'nbdcopy \"$uri\" null:'"

const (
	aTable    = "a table"
	aSynopsis = "a synopsis"
)

var exceptions = []exception{
	{file: "README.md", start: "make demo", why: "a test of its own"},
	{file: "README.md", start: "make deps", why: "installs"},
	{file: "README.md", start: "podman build", why: "needs a registry and a cluster; tests/deploy runs the manifests"},
	{file: "docs/cdi.md", start: "IMPORTER=", why: "needs a registry and a cluster"},
	{file: "docs/cdi.md", start: "kubectl", why: "needs a cluster"},

	{file: manual, start: "nbdkit --filter=digest PLUGIN", why: aSynopsis},
	{file: manual, start: "name  ", why: aTable},
	{file: manual, start: "blkhash  ", why: aTable},
	{file: manual, start: "HEX  NAME", why: aTable},
	{file: manual, start: "group  ", why: aTable},
	{file: manual, start: "digest mismatch:",
		by: "nbdkit -r -U - --filter=digest curl https://mirror.example.com/disk.qcow2 digest-expect=@CHECKSUM digest-name=disk.qcow2 --run 'nbdcopy $uri null:'"},
	{file: manual, start: "its digest was not compared",
		by: "nbdkit -r -U - --filter=digest file disk.img digest-expect=sha256:$(sha256sum disk.img | cut -d' ' -f1) digest-unread=skip --run 'nbdsh -u $uri -c \"h.pread(65536, 0)\"'"},
	{file: manual, start: "nbdkit: error: digest: digest-expect=@SHA256SUMS: line 3",
		by: "{ echo '# sums'; sha256sum disk.img; sha256sum disk.qcow2 | cut -c2-; } > SHA256SUMS; nbdkit --filter=digest file disk.qcow2 digest-expect=@SHA256SUMS digest-name=disk.qcow2"},
	{file: manual, start: "signature=sane wants a disk image",
		by: "printf '<html>\\r\\n<head><title>404 Not Found</title></head>\\r\\n<body>\\r\\n' > page; nbdkit -r -U - --filter=digest file page --run 'nbdcopy $uri null:'"},
	{file: manual, start: "description: blake3:",
		by: "nbdkit -r -U - --filter=digest --filter=exportname file disk.img exportdesc=fixed:'Fedora 41' --run 'nbdinfo $uri';" +
			"nbdkit -r -U - --filter=digest file disk.img --run 'nbdcopy $uri null:; nbdinfo $uri'"},
	{file: manual, start: "SHA256 (disk.img) =", by: aCopy},
	{file: manual, start: "# SHA256 (disk.img): incomplete",
		by: "nbdkit -r -U - --filter=digest file disk.img digest=sha256 digest-name=disk.img digest-unread=skip --run 'nbdsh -u $uri -c \"h.pread(65536, 0)\"'"},
	{file: manual, start: "{", by: aCopy + " digest-file=disk.json && cat disk.json"},
	{file: manual, start: "2fac85fa", by: aCopy + " digest-format=gnu"},
}
