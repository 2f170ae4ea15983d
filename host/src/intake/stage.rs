//! temporary
use super::InspectedFile;
use crate::error::KernelError;
use std::path::{Path, PathBuf};
#[derive(Debug)]
pub struct StagingDir(PathBuf);
#[derive(Debug)]
pub struct StagedFile(PathBuf);
impl StagingDir {
    pub fn open(_: Option<&Path>) -> Result<Self, KernelError> {
        let d = tempfile::tempdir()?.keep();
        Ok(Self(d))
    }
}
impl StagedFile {
    pub fn write(dir: &StagingDir, file: &InspectedFile) -> Result<Self, KernelError> {
        static N: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let p = dir.0.join(format!("x-{}.so", N.fetch_add(1, std::sync::atomic::Ordering::SeqCst)));
        std::fs::write(&p, file.bytes())?;
        Ok(Self(p))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn keep(self) {
        std::mem::forget(self)
    }
}
