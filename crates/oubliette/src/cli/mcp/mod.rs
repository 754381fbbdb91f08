//! `oubliette mcp`: an MCP server on standard input and output, and `--setup`, which writes it into a client's file.

mod bridge;
mod clients;
mod merge;
mod setup;

pub(crate) use clients::McpClient;

use ob_core::Refusal;

use super::Context;
use super::args::Global;
use super::args::McpArgs;
use super::hub::Hub;
use super::output::Output;

/// The variable that holds the token of a client that starts us.
pub(crate) const TOKEN: &str = "OUBLIETTE_TOKEN";

/// Runs the command.
pub(crate) async fn command(
    args: McpArgs,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    match args.setup {
        Some(client) => setup::command(client, &args, context, global, output).await,
        None => bridge::command(&Hub::load(context, global)?, output).await,
    }
}
