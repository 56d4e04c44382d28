# make demo    a file system image through the whole of it: import, serve, snapshot, clone, diff, revert, kill, back up, restore, delete
# make test    everything: format, lints, unit, property, end-to-end and documentation tests, Miri
# make compare  the measurements of benches/README.md, beside qcow2 (long: five rounds; needs some 20 GiB in COMPARE_DIR)
# make compare-vhost-user  the same over vhost-user-blk, beside qemu-storage-daemon with raw and qcow2 (long; needs some 20 GiB in COMPARE_DIR)
# make performance  the performance section of README.md, written from the stored run RUN (benches/results/latest.json)
# make count-requests  allocations and instructions of a 4 KiB request, with valgrind (minutes; needs 1.5 GiB in /dev/shm)
# make over-time  a pool filled to 30, 60 and 90 %, each overwritten ten times with snapshots (half an hour to an hour; needs OVER_TIME_GIB, 32, in COMPARE_DIR)
# make measure-engine  the engine by itself: deep queues, write-back, a thousand snapshots, snapshots under load, processor time (10 minutes; needs some 25 GiB in COMPARE_DIR, 2 in /dev/shm)
# make bench    the pieces that each request goes through, by themselves (minutes)
# make compare-backup  backups beside restic and borg, which have to be installed (long: three rounds; needs some 30 GiB in COMPARE_DIR)
# make measure-limits  what limits on volumes let through, by fio over NBD (25 minutes; needs some 6 GiB in COMPARE_DIR, and as much memory in /dev/shm)
# make measure-service  cairnd with 1,000 volumes, 10,000 snapshots and 5,000 backups: lists, creation, start, I/O beside a loaded interface (a quarter of an hour)
# make soak    simulations with new seeds for SECONDS (600), on all processors: crash points, seeds, verdict
# make soak-guest  a virtual machine whose server is killed KILLS (100) times while it writes; its snapshots are booted then
# make miri    the unit tests of the engine's pure parts under Miri (part of make test; needs rustup, installs nightly Rust)
# make tsan    the engine's handles on several threads under the thread sanitizer (needs rustup, installs nightly Rust)
# make fuzz    each fuzz target for FUZZ_SECONDS (needs nightly Rust; installs cargo-fuzz)
# make install the command `cairn` and the daemon `cairnd` into ~/.cargo/bin
#
# Each does its own set-up, on a fresh Debian or Ubuntu too: scripts/setup installs what is missing and says so.

SHELL := /bin/bash
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/sbin:/sbin
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# RocksDB is built once, for all profiles (scripts/rocksdb).
WITH_ROCKSDB = export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR; ROCKSDB_LIB_DIR=$$(scripts/rocksdb) &&
FUZZ_SECONDS ?= 60
SECONDS ?= 600
SOAK_FROM ?= 0
KILLS ?= 100
COMPARE_DIR ?= /var/tmp
OVER_TIME_GIB ?= 32
RUN ?= benches/results/latest.json

.PHONY: demo test compare compare-vhost-user performance count-requests over-time bench compare-backup measure-limits measure-engine measure-service soak soak-guest miri tsan fuzz install setup clean

demo: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli
	CAIRN_BIN=$(CARGO_TARGET_DIR)/release/cairn scripts/demo

test: setup
	$(WITH_ROCKSDB) scripts/test

compare: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli --package cairn-benches
	$(CARGO_TARGET_DIR)/release/compare --cairn $(CARGO_TARGET_DIR)/release/cairn --dir $(COMPARE_DIR) --json benches/results/latest.json

compare-vhost-user: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli --package cairn-benches
	$(CARGO_TARGET_DIR)/release/compare-vhost-user --cairn $(CARGO_TARGET_DIR)/release/cairn --dir $(COMPARE_DIR) --json benches/results/latest-vhost-user.json

performance: setup
	$(WITH_ROCKSDB) cargo run --release --locked --package cairn-benches --bin compare -- --from $(RUN) --readme README.md

count-requests: setup
	@command -v valgrind >/dev/null || { echo "count-requests: apt-get install valgrind"; exit 1; }
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-benches
	$(CARGO_TARGET_DIR)/release/count-requests

over-time: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-benches
	$(CARGO_TARGET_DIR)/release/over-time --dir $(COMPARE_DIR) --gib $(OVER_TIME_GIB) --json benches/results/over-time.json --svg benches/results/over-time.svg

bench: setup
	$(WITH_ROCKSDB) cargo bench --locked --package cairn-qos --package cairn-engine --package cairn-backup --package cairn-nbd \
		--bench admission --bench pieces --bench chunks --bench requests

compare-backup: setup
	@command -v restic >/dev/null && command -v borg >/dev/null || { echo "compare-backup: apt-get install restic borgbackup"; exit 1; }
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli --package cairn-benches
	$(CARGO_TARGET_DIR)/release/compare-backup --cairn $(CARGO_TARGET_DIR)/release/cairn --dir $(COMPARE_DIR)

measure-limits: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli --package cairn-benches
	$(CARGO_TARGET_DIR)/release/measure-limits --cairn $(CARGO_TARGET_DIR)/release/cairn --dir $(COMPARE_DIR)

measure-engine: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-benches
	$(CARGO_TARGET_DIR)/release/measure-engine --dir $(COMPARE_DIR) --json benches/results/latest-engine.json

measure-service: setup
	$(WITH_ROCKSDB) cargo build --release --locked --package cairn-cli --package cairn-service --package cairn-benches
	$(CARGO_TARGET_DIR)/release/service --cairn $(CARGO_TARGET_DIR)/release/cairn --cairnd $(CARGO_TARGET_DIR)/release/cairnd --dir $(COMPARE_DIR) --json benches/results/latest-service.json

soak: setup
	cargo build --profile sim --locked --package cairn-simulation
	$(CARGO_TARGET_DIR)/sim/cairn-sim soak --seconds $(SECONDS) --from $(SOAK_FROM)

soak-guest: setup
	$(WITH_ROCKSDB) CAIRN_KILLS=$(KILLS) cargo test --locked --package cairn-tests --test e2e vhost_guest -- --nocapture

miri: setup
	scripts/miri

tsan: setup
	scripts/tsan

fuzz: setup
	$(WITH_ROCKSDB) scripts/fuzz $(FUZZ_SECONDS)

install: setup
	$(WITH_ROCKSDB) cargo install --locked --path bindings/cli && cargo install --locked --path bindings/service

setup:
	@scripts/setup

clean:
	cargo clean
