"""The command line: each verb parses, calls the API and prints. stdout is the answer, stderr is progress and notes."""
