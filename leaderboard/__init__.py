"""The leaderboard: submissions, validation and the site. Nothing is here yet."""
