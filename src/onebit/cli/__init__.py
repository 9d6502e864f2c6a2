"""The command line: each verb parses, calls the API, prints. stdout is the answer, stderr is talk and progress."""
