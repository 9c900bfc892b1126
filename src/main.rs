fn main() -> std::process::ExitCode {
    trunkline::main()
}
