// SPDX-License-Identifier: BSD-3-Clause

package main

// qcow2, as in docs/interop/qcow2.txt of QEMU, and its predecessors qcow and
// QED. Numbers of qcow are big-endian.

const (
	qcow2V2Length = 72 // bytes of a header of version 2
	qcow2V3Length = 104

	qcow2DataFileBit   = 2
	qcow2KnownFeatures = 1<<5 - 1 // dirty, corrupt, data file, compression type, extended L2

	qcow2DataFileName = 0x44415441 // a type of header extension
)

func isQcow(v *view, _ int64) bool {
	clusterBits := v.u8(32)
	return v.be32(4) == 1 && clusterBits >= 9 && clusterBits <= 21
}

func isQcow2(v *view, _ int64) bool {
	version, clusterBits := v.be32(4), v.be32(20)
	return (version == 2 || version == 3) && clusterBits >= 9 && clusterBits <= 21
}

func qcowBackingFile(v *view) string {
	if v.be64(8) == 0 {
		return ""
	}
	if v.be32(4) == 1 {
		return "qcow names a backing file"
	}
	return "qcow2 names a backing file"
}

// qcow2Incompatible returns the features that a reader must know. Version 2
// has none.
func qcow2Incompatible(v *view) uint64 {
	if v.be32(4) < 3 {
		return 0
	}
	return v.be64(72)
}

func qcow2DataFile(v *view) string {
	if qcow2Incompatible(v)&(1<<qcow2DataFileBit) != 0 {
		return "qcow2 has an external data file"
	}
	return ""
}

func qcow2Features(v *view) string {
	if qcow2Incompatible(v)&^qcow2KnownFeatures != 0 {
		return "qcow2 has incompatible features that are not known"
	}
	return ""
}

func qcow2Header(v *view) (length, cluster int64) {
	length, cluster = qcow2V2Length, 1<<v.be32(20)
	if v.be32(4) >= 3 {
		length = int64(v.be32(100))
	}
	return length, cluster
}

func qcow2HeaderLength(v *view) string {
	length, cluster := qcow2Header(v)
	switch {
	case v.at(0, qcow2V2Length) == nil || v.be32(4) >= 3 && v.at(0, qcow2V3Length) == nil:
		return "qcow2 has a header that is cut off"
	case v.be32(4) >= 3 && length < qcow2V3Length, length > cluster, length%8 != 0:
		return "qcow2 has a header of a wrong length"
	}
	return ""
}

// qcow2Extensions walks the header extensions, which end with the first
// cluster, or the backing file's name in it, at the latest.
func qcow2Extensions(v *view) string {
	at, cluster := qcow2Header(v)
	if backing := v.be64(8); backing != 0 && backing < uint64(cluster) {
		cluster = int64(backing)
	}
	for at+8 <= min(cluster, v.size) {
		if at+8 > int64(len(v.prefix)) {
			return "qcow2 has header extensions that are too long to look at"
		}
		switch kind, length := v.be32(at), int64(v.be32(at+4)); {
		case kind == 0:
			return ""
		case kind == qcow2DataFileName:
			return "qcow2 names an external data file"
		case length > cluster-at-8:
			return "qcow2 has a header extension that does not end in the first cluster"
		default:
			at += 8 + (length+7)&^7
		}
	}
	return ""
}

// qedFormat refuses all of them, as OpenStack does: it is no more looked
// after, and nobody has to have it.
func qedFormat(*view) string { return "qed is obsolete and never accepted" }

func qedBackingFile(v *view) string {
	if v.le64(16)&1 != 0 {
		return "qed names a backing file"
	}
	return ""
}
