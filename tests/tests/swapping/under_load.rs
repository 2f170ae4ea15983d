//! Callers flat out, in the process and over the socket, and a swap again and again.
//!
//! `OXIDE_TEST_SECONDS` says for how long; without it a number of swaps decides.

use std::{fs, time::Duration};

use oxide_tests::{
    misbehave::changed,
    misbehaving,
    swaps::{self, Swaps, Until},
};

use super::scene::another_build;

/// How many swaps there are in a usual run of the tests.
const SWAPS: usize = 40;

async fn under_load(stateful: bool) {
    let seconds = std::env::var("OXIDE_TEST_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let until = seconds.map_or(Until::Swaps(SWAPS), |seconds| Until::Time(Duration::from_secs(seconds)));
    let other = another_build();
    let bytes = fs::read(misbehaving()).unwrap();
    assert_ne!(bytes, fs::read(&other).unwrap());
    let library = changed("misbehaving", &bytes);
    let what = Swaps {
        library: library.as_ref().to_owned(),
        other: other.as_ref().to_owned(),
        stateful,
        callers: 4,
        sockets: 2,
        pace: Duration::from_millis(20),
        until,
        fail_each: 0,
    };
    let outcome = swaps::run(&what, |_, _| {}).await;
    println!("with a state: {stateful}; {outcome:?}");
    assert!(outcome.swaps > 0 && outcome.calls > 0 && outcome.socket_calls > 0);
    assert_eq!(outcome.late, 0, "each old generation was gone by the end of its swap");
    if !stateful {
        assert_eq!((outcome.held, outcome.longest_hold), (0, Duration::ZERO), "nobody waits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_with_a_state_counts_every_call_once_through_every_swap() {
    under_load(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_a_state_holds_nobody() {
    under_load(false).await;
}
