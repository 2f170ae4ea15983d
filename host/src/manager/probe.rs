//! What can be known of a build before a module is swapped to it. No module is touched.

use std::{path::PathBuf, sync::Arc};

use oxide_plugin_api::ModuleMetadata;

use super::{
    load::{Failure, Loading, Plan, described, inspected, make, reading, undo},
    registry::{Entry, Shared},
    swap::{Asker, Job, failed},
};
use crate::{
    error::Result,
    intake::StagedFile,
    life::{generation::unique_number, undertaker},
    report::{Retention, SwapStep},
};

/// What a build says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Probed {
    pub(crate) metadata: ModuleMetadata,
    /// Why its library would stay mapped after an unload, when its file says so.
    pub(crate) retained_by: Vec<Retention>,
}

/// Looks whether a file could be swapped to, as far as that is known without running any of it. Gives the number and
/// the version of the build that would be replaced.
pub(crate) async fn look(
    shared: &Arc<Shared>,
    loading: &Loading,
    entry: &Arc<Entry>,
    path: PathBuf,
    force: bool,
) -> Result<(u64, String)> {
    let old = entry.present();
    let asker = Asker { runtime: None, gone: Arc::default() };
    let job = Job { shared, loading, entry, old: &old, asker: &asker };
    job.may_begin()?;
    let staged = old.build.lock().as_ref().map(|build| build.staged.clone());
    let differs = job.differs(staged.filter(|_| !force));
    let (with, read) = (loading.clone(), path.clone());
    let look = move || Ok(inspected(&with, &read).and_then(|file| differs(&file)));
    reading(&path, look).await?.map_err(|failure| failed(entry, &old, failure))?;
    Ok((old.generation.number, old.metadata.version.clone()))
}

/// Goes through every step of a load up to `metadata`, and undoes them.
pub(crate) async fn probe(shared: &Arc<Shared>, loading: &Loading, path: PathBuf) -> Result<Probed, Failure> {
    let (with, read) = (loading.clone(), path.clone());
    let work = move || {
        let file = inspected(&with, &read)?;
        StagedFile::write(&with.staging, &file).map_err(Failure::at(SwapStep::Stage))
    };
    let staged = reading(&path, move || Ok(work())).await.map_err(Failure::at(SwapStep::Inspect))??;
    let id: Arc<str> = staged.description().package.as_str().into();
    let plan = Plan { id: id.clone(), module: unique_number(), number: 1, path };
    let generation = make(shared, &plan, staged.clone()).await?;
    let metadata = described(shared, &generation, &staged).await.map_err(Failure::at(SwapStep::Metadata));
    undo(shared, &id, generation).await;
    Ok(Probed { metadata: metadata?, retained_by: undertaker::static_holders(staged.facts()) })
}
