// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// How the values of parameters are read, and shown.

// parseBool takes the words that nbdkit takes.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "t", "yes", "y", "on":
		return true, nil
	case "0", "false", "f", "no", "n", "off":
		return false, nil
	}
	return false, errors.New("use true or false")
}

// parseSize reads a number of bytes as nbdkit does: a suffix of b, s (512),
// k, m, g, t, p or e, in either case.
func parseSize(s string, least, most int64) (int64, error) {
	if s == "" {
		return 0, errors.New("this is not a size: it is empty")
	}
	digits, shift := s, 0
	switch last := s[len(s)-1] | 0x20; last {
	case 'b':
		digits = s[:len(s)-1]
	case 's':
		digits, shift = s[:len(s)-1], 9
	default:
		if i := strings.IndexByte("kmgtpe", last); i >= 0 {
			digits, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, errors.New("this is not a size: use a number with a suffix such as k, M or G")
	}
	if err != nil || n > math.MaxInt64>>shift || int64(n<<shift) < least || int64(n<<shift) > most {
		return 0, fmt.Errorf("the size must be in the range [%s..%s]", formatSize(least), formatSize(most))
	}
	return int64(n << shift), nil
}

func formatSize(n int64) string {
	suffix := 0
	for n >= 1024 && n%1024 == 0 {
		n /= 1024
		suffix++
	}
	return strconv.FormatInt(n, 10) + []string{"", "K", "M", "G", "T", "P", "E"}[suffix]
}

// printable keeps an odd value from breaking the one line of its error.
func printable(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}
