# make          build the filter and its man page
# make install  put them where nbdkit and man look for them (DESTDIR is heeded)
# make demo     watch the filter at work on an image made for it
# make check    run every test
# make soak     try for SOAK_MINUTES, 30 if not given, to break the filter
# make bench    measure speed and memory, each against the same copy without
#               the filter, and write docs/speed.txt and docs/speed.svg
# make deb      build/*.deb, for the nbdkit that is installed
# make rpm      build/*.rpm, the same
# make dist     build/nbdkit-digest-filter-VERSION.tar.gz, the source
# make check-packages
#               build the .deb in Debian 12 and in Debian 13, install it in
#               clean ones and use it there; no part of "make check", because
#               it needs root, debootstrap and a Debian mirror
# make deps     install what is missing for all of these; demo, check, soak and
#               bench do so by themselves

SHELL = /bin/bash -o pipefail
.DELETE_ON_ERROR:
.PHONY: all man install deps check demo soak bench deb rpm dist check-packages \
        clean FORCE

FILTER = nbdkit-digest-filter.so
MAN = nbdkit-digest-filter.1
VERSION = $(shell sed -n 's/.*DIGEST_VERSION "\(.*\)"/\1/p' about.h)
SOURCES = $(wildcard *.go *.c *.h nbdkit/*.go nbdkit/*.c nbdkit/*.h nbdkit/*.ld) go.mod go.sum
SCRIPTS = .ci/run deploy/nbdkit-digest $(wildcard packaging/*.sh tests/*.sh)

# nbdkit loads the filter only if it was built with the headers of that nbdkit.
# Not expanded before a recipe needs it: "make deps" works without nbdkit.
filterdir = $(shell pkg-config --variable=filterdir nbdkit)
prefix = $(shell pkg-config --variable=prefix nbdkit)
mandir = $(prefix)/share/man

# Keeps Go's initialiser from running before nbdkit forks: see nbdkit/start.c.
GO_LDFLAGS = -s -w -extldflags "-Wl,-T,$(CURDIR)/nbdkit/init.ld"

# Neither make nor Go's cache sees that another nbdkit has other headers. This
# file tells make; a macro that no code looks at tells the cache.
BUILT_FOR = build/nbdkit-version
export CGO_CFLAGS ?= -O2 -g
export CGO_ENABLED = 1

all: $(FILTER) man

$(BUILT_FOR): FORCE
	@mkdir -p build
	@version=$$(pkg-config --modversion nbdkit 2>/dev/null); \
	    echo "$$version" | cmp -s - $@ || echo "$$version" > $@

$(FILTER): $(filter-out %_test.go nbdkit-digest-filter.h,$(SOURCES)) $(BUILT_FOR)
	@pkg-config --exists nbdkit || \
	    { echo "nbdkit's headers are missing: run 'make deps'" >&2; exit 1; }
	CGO_CFLAGS="$$CGO_CFLAGS -DBUILT_FOR_$$(tr -c '[:alnum:]\n' _ < $(BUILT_FOR))" \
	    go build -trimpath -buildvcs=false -buildmode=c-shared \
	    -ldflags '$(GO_LDFLAGS)' -o $@ .
	@rm -f nbdkit-digest-filter.h

# A machine without pod2man still gets its filter.
man: $(if $(shell command -v pod2man),$(MAN))

$(MAN): nbdkit-digest-filter.pod about.h
	pod2man --utf8 --section=1 --center=NBDKIT \
	    --release="nbdkit-digest-filter $(VERSION)" $< > $@

install: all
	install -D -m 755 $(FILTER) "$(DESTDIR)$(filterdir)/$(FILTER)"
	if [ -e $(MAN) ]; then \
	    install -D -m 644 $(MAN) "$(DESTDIR)$(mandir)/man1/$(MAN)"; fi

deps:
	@sh tests/deps.sh $(filter bench,$(MAKECMDGOALS))

# With one of these goals, what is missing is installed before the build.
ifneq (,$(filter check demo soak bench,$(MAKECMDGOALS)))
$(FILTER) $(MAN) $(BUILT_FOR): | deps
endif

check: all
	test -z "$$(gofmt -l *.go nbdkit tests | tee /dev/stderr)"
	go vet ./...
	shellcheck $(SCRIPTS)
	podchecker nbdkit-digest-filter.pod
	go test -race . ./nbdkit/...
	go test -count=1 -timeout 15m ./tests/...
	cd tests/deploy && go vet ./... && go test -count=1 ./...

demo: $(FILTER)
	tests/demo.sh

# A round that fails says how to repeat it. SOAK_SEED=0 is a new seed.
SOAK_MINUTES = 30
SOAK_SEED = 0
soak: $(FILTER)
	SOAK=1 go test -count=1 -timeout 60m -run 'LeaveNothing|ManyClientsAtOnce|KilledServer' -v ./tests
	go test -count=1 -timeout 0 -v ./tests/chaos -args -seed=$(SOAK_SEED) -minutes=$(SOAK_MINUTES)

bench: $(FILTER)
	go run ./tests/bench -keep docs

deb rpm: all
	bash packaging/build.sh $@

dist:
	bash packaging/dist.sh

check-packages: dist
	bash packaging/check.sh

clean:
	rm -rf build/nbdkit-version build/package build/*.deb build/*.rpm build/*.tar.gz
	rm -f $(FILTER) $(MAN) nbdkit-digest-filter.h
