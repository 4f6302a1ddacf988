//! Whole clusters, as real processes of the program, through its command, its SDK and its wire.
//!
//! One program of many modules: each file under `tests/` that cargo sees is linked anew.
#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod answers;
mod api;
mod authority;
mod backup;
mod bad_input;
mod damage;
mod demo;
mod elastic;
mod environment;
mod frameworks;
mod full_disk;
mod gpus;
mod hosts;
mod isolation;
mod isolation_users;
mod jobs;
mod leaders;
mod lineage;
mod logs;
mod members;
mod metrics;
mod outsiders;
mod prometheus;
mod providers;
mod queues;
mod quotas;
mod ranks;
mod results;
mod retention;
mod scheduling;
mod secrets;
mod silence;
mod simulate;
mod spool;
mod stalls;
mod stragglers;
mod support;
mod time;
mod training;
mod upgrade;
mod versions;
mod workers;
