"""How a command starts and ends (entry), is launched in several processes (launch) and is swept (sweep)."""
