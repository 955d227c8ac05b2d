"""Answers judged by models and rated by people, and the statistics of win rates and agreement."""
