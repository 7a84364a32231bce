"""What every room may use: errors and their exit codes, signals, this process's rank, what is kept out of logs."""
