"""What CI systems read of results: JUnit, SARIF, OpenMetrics, written whole or not at all."""
