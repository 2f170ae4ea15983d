//! Loads, calls and unloads guests over and over, and fails when anything of them is left.
//!
//! `scripts/wasm-runtime.sh soak [CYCLES]`

use std::{env, process::ExitCode};

use wasm_runtime_tests::{Given, House, resident};

/// How much the process may grow between the tenth part and the end.
const SLACK: u64 = 8 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    let cycles: usize = env::args().nth(1).map_or(1000, |cycles| cycles.parse().expect("a number of cycles"));
    let house = House::new();
    let folder = tempfile::tempdir().expect("room for temporary files");
    let cache = folder.path().join("cache");
    let guests = ["hello", "echo", "counter", "traps", "loops", "grows"];
    let given: Vec<_> = guests.map(|guest| Given::guest(guest).with("call_time", 20).cache(&cache)).into();
    let mut warm = 0;
    for cycle in 0..cycles {
        let guest = cycle % guests.len();
        house.load("guest", &given[guest]).await;
        let answer = match guests[guest] {
            "hello" => house.try_call("guest", "hello", "you").await,
            "echo" => house.try_call("guest", "echo", "you").await,
            "counter" => house.try_call("guest", "increment", "").await,
            _ => house
                .try_call("guest", "go ahead", "")
                .await
                .err()
                .ok_or_else(|| "it did not fail".to_owned()),
        };
        answer.unwrap_or_else(|error| panic!("cycle {cycle}, {}: {error}", guests[guest]));
        house.gone("guest").await;
        if cycle == cycles / 10 {
            warm = resident();
        }
        if cycle % (cycles / 10).max(1) == 0 {
            println!("{cycle:6} cycles: {} KiB resident, {} mapped", resident() / 1024, house.mapped());
        }
    }
    let end = resident();
    println!("{cycles:6} cycles: {} KiB resident, {} mapped", end / 1024, house.mapped());
    match house.mapped() == 0 && end <= warm + SLACK {
        true => ExitCode::SUCCESS,
        false => {
            println!("it grew from {} KiB to {} KiB", warm / 1024, end / 1024);
            ExitCode::FAILURE
        }
    }
}
