//! Sorts on a `rayon` pool of its own, which is dropped in `stop`. Its threads end a moment after that, which
//! the unload waits for.
#![forbid(unsafe_code)]

use common::check;
use oxide_plugin_api::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

#[derive(Default)]
struct Sorter(Option<ThreadPool>);

impl Module for Sorter {
    fn metadata(&self) -> ModuleMetadata {
        common::metadata!()
    }

    async fn start(&mut self) -> Result<()> {
        self.0 = Some(ThreadPoolBuilder::new().num_threads(3).build()?);
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method != "use" {
            return Err(Error::unknown_method(method));
        }
        let seed: u64 = payload.to_json()?;
        let pool = self.0.as_ref().ok_or_else(|| Error::new("not started"))?;
        let (is_sorted, sum) = pool.install(|| {
            let mut numbers: Vec<u64> = (0..5_000_u64).map(|n| n.wrapping_mul(seed | 1) % 9_973).collect();
            numbers.par_sort_unstable();
            rayon::join(|| numbers.is_sorted(), || numbers.par_iter().sum::<u64>())
        });
        check(is_sorted && sum > 0, "the order")?;
        Ok("ok".into())
    }

    async fn stop(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }
}

export_module!(Sorter);
