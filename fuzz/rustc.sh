#!/bin/sh
# What cargo calls in the compiler's place for the crates of this workspace when `cargo xtask fuzz` builds (RUSTC_WORKSPACE_WRAPPER):
# libFuzzer follows marks on every branch and comparison. One unit of code a crate keeps the marks' tables whole. What other crates
# bring is taken as it was built before, without marks; of generic code, which is built here, it has them.
#
# A program that cargo runs while it builds has nobody whom it could tell of marks, nor have the words that it shares with us.
case " $* " in
*" --crate-name build_script_build "* | *" --crate-name types "*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on
