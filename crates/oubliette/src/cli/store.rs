//! `oubliette store`: the home's store, looked at from outside; works with the server up or down.

use ob_config::Loaded;
use ob_core::Check;
use ob_core::Refusal;

use super::args::StoreCommand;
use super::checks;
use super::doctor::places;
use super::output::Output;
use crate::server;

/// Runs the command.
pub(crate) async fn command(command: StoreCommand, loaded: &Loaded, output: &Output) -> Result<u8, Refusal> {
    match command {
        StoreCommand::Check => check(loaded, output).await,
    }
}

/// Reads everything that is stored and says what is wrong with it.
async fn check(loaded: &Loaded, output: &Output) -> Result<u8, Refusal> {
    let server = match server::lock::holder(&loaded.home) {
        Some(holder) => {
            output.hint(&format!("pid {} serves this home: what follows is a moment of it", holder.pid));
            Check::ok("server", format!("pid {} serves this home; a moment of it was checked", holder.pid))
        }
        None if server::lock::was_killed(&loaded.home) => {
            Check::ok("server", "none runs; the last one was killed, and the next recovers what it left")
        }
        None => Check::ok("server", "none runs"),
    };
    let mut all = vec![server];
    all.extend(ob_store::sqlite::verify(places(&loaded.home)).await.map_err(|error| error.refusal())?);
    Ok(checks::print(Some(loaded.home.root()), &all, output))
}
