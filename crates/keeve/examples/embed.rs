//! The engine inside another program: load a model, stream an answer.

use std::io::Write;

use keeve::{Engine, EngineOptions, Event, Message, RenderOptions, Request, SamplingParams};

#[allow(clippy::print_stdout, reason = "it is a program, not a library")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `keeve::Checkpoint::open(path)` opens a directory or a .gguf file instead.
    let checkpoint = keeve::demo_model()?;
    let engine = Engine::load(&checkpoint, &EngineOptions::default(), &|_progress| true)?;

    let messages = [Message::text("user", "What is the capital of France?")];
    let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
    let prompt = engine.chat_prompt(&messages, &options)?;
    let sampling = SamplingParams { temperature: 0.0, ..Default::default() };
    let request = Request { prompt, sampling, max_tokens: Some(64), ..Request::default() };

    // Dropping the stream cancels the request; several can run at the same time.
    for event in engine.submit(request)? {
        match event {
            Event::Token { text, .. } => print!("{text}"),
            Event::Finished { text, reason, .. } => println!("{text} [{}]", reason.name()),
            Event::Failed(error) => return Err(error.into()),
            Event::PromptLogits { .. } | Event::Embedding(_) => {}
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
