//! Owns `neap route`: which rule a URL meets, which server it gets, and why.
//! Must not know how a router chooses.

use clap::Subcommand;

use super::Ctx;
use super::failure::Failure;
use super::out::{self, or_dash};
use crate::wire::api::{ProgramView, RouteTest, path};
use crate::wire::page::Page;

#[derive(Subcommand, Debug)]
pub enum RouteCommand {
    /// Lists routes and the programs that they lead to
    Ls,
    /// Tells which rule and which server a URL would get, and why
    Test {
        #[arg(help = "Such as http://shop.example.com/cart")]
        url: String,
    },
}

/// A route, as it is listed.
#[derive(serde::Serialize)]
struct Listed {
    route: String,
    program: String,
}

impl RouteCommand {
    pub async fn run(self, ctx: &Ctx) -> Result<(), Failure> {
        match self {
            Self::Ls => list(ctx).await,
            Self::Test { url } => {
                let test: RouteTest = ctx.client.get(path::ROUTE_TEST, &[("url", &url)]).await?;
                let led = test.program.is_some();
                ctx.out.one(&test, text)?;
                if led { Ok(()) } else { Err(Failure::Told(super::failure::EXIT_FAILED)) }
            }
        }
    }
}

async fn list(ctx: &Ctx) -> Result<(), Failure> {
    let programs = ctx.client.list::<ProgramView>(path::PROGRAMS, &[]).await?;
    let routes = programs.items.iter().flat_map(|program| {
        program.routes.iter().map(|route| Listed { route: route.clone(), program: program.name.to_string() })
    });
    ctx.out.list(&Page { items: routes.collect(), next: programs.next }, |routes| {
        out::table(&["ROUTE", "PROGRAM"], routes.iter().map(|one| vec![one.route.clone(), one.program.clone()]))
    })
}

fn text(test: &RouteTest) -> String {
    let (Some(rule), Some(program)) = (&test.rule, &test.program) else {
        return format!(
            "{}: no rule matches, a router answers 404; `neap route ls` shows the rules",
            out::clean(&test.url)
        );
    };
    let path = test.path.as_deref().map(|path| format!(", which sees {}", out::clean(path))).unwrap_or_default();
    let candidates = out::table(
        &["", "SERVER", "VERSION", "STATE", "ACTIVE", "WHY"],
        test.candidates.iter().map(|one| {
            vec![
                if one.chosen { ">" } else { "" }.to_owned(),
                one.server.to_string(),
                or_dash(one.version.as_ref()),
                one.state.to_string(),
                one.active_requests.to_string(),
                one.why.clone(),
            ]
        }),
    );
    format!("{}: rule {} leads to {program}{path}\n{candidates}", out::clean(&test.url), out::clean(rule))
}
