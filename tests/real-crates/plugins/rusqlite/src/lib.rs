//! Keeps rows in SQLite databases, one in memory and one in a file, with `rusqlite` and the C library in it.
#![forbid(unsafe_code)]

use common::check;
use oxide_plugin_api::prelude::*;
use rusqlite::{Connection, functions::FunctionFlags, params};
use tempfile::TempDir;

/// The file's folder.
#[derive(Default)]
struct Database(Option<TempDir>);

fn fill(mut connection: Connection, seed: u64) -> Result<()> {
    connection.create_scalar_function("twice", 1, FunctionFlags::SQLITE_DETERMINISTIC, |context| {
        Ok(context.get::<i64>(0)? * 2)
    })?;
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, name TEXT NOT NULL)", [])?;
    let change = connection.transaction()?;
    {
        let mut insert = change.prepare("INSERT INTO rows (name) VALUES (?1)")?;
        for n in 0..100 {
            insert.execute(params![format!("row {n} of {seed}")])?;
        }
    }
    change.commit()?;
    let (count, sum): (i64, i64) =
        connection.query_row("SELECT count(*), sum(twice(id)) FROM rows", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    check((count, sum) == (100, 10_100), "what the rows add up to")?;
    check(connection.execute("INSERT INTO nowhere VALUES (1)", []).is_err(), "the answer to nonsense")?;
    connection.close().map_err(|(_, error)| error.into())
}

impl Module for Database {
    fn metadata(&self) -> ModuleMetadata {
        common::metadata!()
    }

    async fn start(&mut self) -> Result<()> {
        self.0 = Some(TempDir::new()?);
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        if method != "use" {
            return Err(Error::unknown_method(method));
        }
        let seed: u64 = payload.to_json()?;
        fill(Connection::open_in_memory()?, seed)?;
        let folder = self.0.as_ref().ok_or_else(|| Error::new("not started"))?;
        let file = Connection::open(folder.path().join(format!("{seed}.sqlite")))?;
        file.pragma_update(None, "journal_mode", "WAL")?;
        fill(file, seed)?;
        Ok("ok".into())
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(folder) = self.0.take() {
            folder.close()?;
        }
        Ok(())
    }
}

export_module!(Database);
