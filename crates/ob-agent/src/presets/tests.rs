//! Every preset under every option.

use ob_core::agent::Reasoning;

use super::*;

fn launch(options: &AgentOptions) -> Launch<'_> {
    Launch { program: "/opt/agent", model: "some/model-1", options }
}

fn start(preset: &Preset, options: &AgentOptions) -> AgentStart {
    refuse_what_it_cannot(preset.name, &preset.can, options).expect(preset.name);
    preset.start(&launch(options))
}

#[test]
fn the_plain_start_of_every_preset() {
    let starts: BTreeMap<_, _> =
        PRESETS.iter().map(|preset| (preset.name, start(preset, &AgentOptions::default()))).collect();
    insta::assert_json_snapshot!(starts);
}

#[test]
fn names_are_unique_and_the_built_in_agents_is_not_taken() {
    let mut names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).chain([BUILTIN]).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_version_that_is_called_tested_is_the_one_that_make_agents_installs() {
    let installed = include_str!("../../../../scripts/agents.sh");
    for preset in PRESETS {
        let Some(version) = preset.tested else { continue };
        let line = installed.lines().find(|line| line.starts_with(&format!("install {} ", preset.name)));
        assert!(line.is_some_and(|line| line.ends_with(&format!("@{version}"))), "{}: {line:?}", preset.name);
    }
}

#[test]
fn every_preset_leads_to_the_gate_and_keeps_its_reports_to_itself() {
    for preset in PRESETS {
        let start = start(preset, &AgentOptions::default());
        let text = serde_json::to_string(&start).expect("JSON");
        assert!(text.contains(GATE_PLACE), "{}", preset.name);
        assert_eq!(start.argv.first().map(String::as_str), Some("/opt/agent"), "{}", preset.name);
        assert_eq!(start.plain.is_some(), preset.protocol == AgentProtocol::Plain, "{}", preset.name);
        for file in start.files.keys() {
            assert!(!file.starts_with('/') && !file.contains(".."), "{}: {file}", preset.name);
        }
        for elsewhere in ["https://", "api.openai.com", "anthropic.com", "googleapis"] {
            assert!(!text.contains(elsewhere), "{}: {elsewhere}", preset.name);
        }
    }
}

/// W27: what a session asked for had no effect, and nobody said so.
#[test]
fn every_option_takes_effect_or_is_refused_by_the_agents_name() {
    let tools = || vec!["some_tool".to_owned()];
    let all = [
        AgentOptions { autonomy: Autonomy::Off, ..AgentOptions::default() },
        AgentOptions { autonomy: Autonomy::Low, ..AgentOptions::default() },
        AgentOptions { autonomy: Autonomy::Medium, ..AgentOptions::default() },
        AgentOptions { reasoning: Some(Reasoning::High), ..AgentOptions::default() },
        AgentOptions { reasoning: Some(Reasoning::Off), ..AgentOptions::default() },
        AgentOptions { tools_allowed: tools(), ..AgentOptions::default() },
        AgentOptions { tools_disallowed: tools(), ..AgentOptions::default() },
    ];
    // Its questions are answered by the rules of the level; the start is the same.
    let asks = ["claude-code", "droid"];
    for preset in PRESETS {
        let plain = preset.start(&launch(&AgentOptions::default()));
        for options in &all {
            let about_autonomy = options.autonomy != Autonomy::High;
            match refuse_what_it_cannot(preset.name, &preset.can, options) {
                Ok(()) => {
                    let differs = preset.start(&launch(options)) != plain;
                    assert!(
                        differs || (about_autonomy && asks.contains(&preset.name)),
                        "{} takes {options:?} and does nothing",
                        preset.name
                    );
                }
                Err(refusal) => {
                    assert!(refusal.message.contains(preset.name), "{refusal}");
                    assert!(refusal.fix.is_some(), "{refusal}");
                }
            }
        }
    }
}

#[test]
fn names_of_tools_cannot_break_out_of_a_configuration() {
    for name in ["", "a\"b", "a,b", "a\nb", "ä", &"x".repeat(300)] {
        let options = AgentOptions { tools_disallowed: vec![name.to_owned()], ..AgentOptions::default() };
        let preset = find("opencode").expect("it is known");
        assert!(refuse_what_it_cannot(preset.name, &preset.can, &options).is_err(), "{name:?}");
    }
    // A model's name is a provider's text; it is carried as data.
    let options = AgentOptions { reasoning: Some(Reasoning::Low), ..AgentOptions::default() };
    let codex = find("codex").expect("it is known");
    let hostile = Launch { program: "p", model: "m\"\napproval_policy = \"x", options: &options };
    let config = codex.start(&hostile).files[".codex/config.toml"].clone();
    assert!(config.starts_with(r#"model = "m\"\napproval_policy = \"x""#), "{config}");
}

#[test]
fn a_tool_that_is_disallowed_goes_over_one_that_is_allowed() {
    let options = AgentOptions {
        tools_allowed: vec!["bash".to_owned(), "read".to_owned()],
        tools_disallowed: vec!["bash".to_owned()],
        ..AgentOptions::default()
    };
    let opencode = start(find("opencode").expect("it is known"), &options);
    let config: serde_json::Value =
        serde_json::from_str(&opencode.env["OPENCODE_CONFIG_CONTENT"]).expect("JSON");
    let rules: Vec<(&String, &serde_json::Value)> =
        config["permission"].as_object().expect("rules").iter().collect();
    assert_eq!(rules.first().map(|(tool, rule)| (tool.as_str(), rule.as_str())), Some(("*", Some("deny"))));
    assert_eq!(rules.last().map(|(tool, rule)| (tool.as_str(), rule.as_str())), Some(("bash", Some("deny"))));
    assert_eq!(config["permission"]["read"], "allow");
}

#[test]
fn the_built_in_agent_has_the_tools_that_its_autonomy_allows() {
    let argv = |autonomy, allowed: &[&str], disallowed: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|tool| (*tool).to_owned()).collect();
        let options = AgentOptions {
            autonomy,
            tools_allowed: own(allowed),
            tools_disallowed: own(disallowed),
            ..AgentOptions::default()
        };
        builtin_argv(&options).split_off(2).join(" ")
    };
    assert_eq!(argv(Autonomy::High, &[], &[]), "");
    assert_eq!(argv(Autonomy::Medium, &[], &[]), "");
    assert_eq!(argv(Autonomy::Low, &[], &[]), "--tools read,write,edit,patch,list,search,plan");
    assert_eq!(argv(Autonomy::Off, &[], &[]), "--tools read,list,search,plan");
    assert_eq!(argv(Autonomy::Off, &["run", "read"], &[]), "--tools read");
    assert_eq!(argv(Autonomy::High, &[], &["run", "plan"]), "--tools read,write,edit,patch,list,search");
}

#[test]
fn the_built_in_agent_refuses_tools_that_it_has_not_and_being_left_without() {
    let refused = |options: AgentOptions| {
        refuse_what_it_cannot(BUILTIN, &BUILTIN_CAN, &options).expect_err("it is refused").to_string()
    };
    let unknown = AgentOptions { tools_allowed: vec!["bash".to_owned()], ..AgentOptions::default() };
    assert_eq!(
        refused(unknown),
        "the agent `builtin` has no tool `bash`; its tools are read, write, edit, patch, list, search, run, plan"
    );
    let nothing = AgentOptions {
        autonomy: Autonomy::Off,
        tools_allowed: vec!["run".to_owned()],
        ..AgentOptions::default()
    };
    assert!(refused(nothing).contains("would have no tool left"));
}
