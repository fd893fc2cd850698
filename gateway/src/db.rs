//! `tidegate db`: the store's schema, a copy of the store, and whether what it holds agrees with itself.

mod backup;
mod check;

use crate::cli::{Common, DbCommand};
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row, note};
use crate::session;
use backup::Ended;
use serde_json::json;
use storage::model::{Clock, SystemClock};
use storage::store::{MigrationRow, mark_copy, migrate, schema};

const COLUMNS: &[Column] =
    &[Column::new("VERSION", Room::Whole), Column::new("NAME", Room::Spare), Column::new("STATE", Room::Whole)];

pub fn run(command: &DbCommand, common: &Common) -> Result<Exit, Failure> {
    let url = session::store_url(common)?;
    session::runtime()?.block_on(async {
        match command {
            DbCommand::Migrate => print(&migrate(&url).await?, common),
            DbCommand::Status => print(&schema(&url).await?, common),
            DbCommand::Backup { out } => match backup::backup(&url, out).await? {
                Ended::Done(record) => record.print(common.output, SystemClock.now()).map(|()| Exit::Done),
                Ended::Stopped(exit) => Ok(exit),
            },
            DbCommand::Restored => {
                mark_copy(&url, SystemClock.now()).await?;
                note("planned batches are looked for at their providers, and jobs suspended, when a node starts on it");
                Ok(Exit::Done)
            }
            DbCommand::Check => {
                let answers = check::answers(&url).await?;
                check::list(&answers).print(common.output, SystemClock.now())?;
                Ok(check::verdict(&answers))
            }
        }
    })
}

fn print(rows: &[MigrationRow], common: &Common) -> Result<Exit, Failure> {
    list(rows).print(common.output, SystemClock.now())?;
    if rows.iter().any(|row| !row.applied) {
        note("what is pending is applied by `tidegate db migrate`, or when a server starts");
    }
    Ok(Exit::Done)
}

fn list(rows: &[MigrationRow]) -> List {
    let row = |migration: &MigrationRow| {
        let state = match (migration.applied, migration.foreign) {
            (true, false) => "applied",
            (true, true) => "applied by a newer version",
            (false, _) => "pending",
        };
        Row {
            cells: vec![
                Cell::text(migration.version.to_string()),
                Cell::text(&migration.description),
                Cell::text(state),
            ],
            json: json!({ "version": migration.version, "name": migration.description, "state": state }),
        }
    };
    List { columns: COLUMNS, rows: rows.iter().map(row).collect(), next_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;

    #[test]
    fn each_migration_says_whether_the_store_has_it() {
        let row = |version, applied, foreign| MigrationRow { version, description: "x".to_owned(), applied, foreign };
        let text =
            list(&[row(1, true, false), row(2, false, false), row(9, true, true)]).render(Output::Table, Style::Plain);
        assert_eq!(text, "1\tx\tapplied\n2\tx\tpending\n9\tx\tapplied by a newer version\n");
    }
}
