"""Query plans for KramaBench tasks, written by hand from the sketches of ``verified_tasks.json``.

They stand for what a good planning model would write, and find every year, town and file in the data: nothing of an
answer is written into them. Chained tasks are plans whose later step reads an earlier step's result.
"""

from __future__ import annotations

from typing import Final

from agentsys.lake.queries.plan import Plan

_VIOLATION_RATE: Final = "100.0 * count(*) FILTER (WHERE lower(violation) = 'yes') / count(*)"

LEGAL_PLANS: Final[dict[str, Plan]] = {
    "legal-easy-3": Plan.of(
        """
        SELECT round(
            sum(identity_theft) FILTER (WHERE year = 2024) / sum(identity_theft) FILTER (WHERE year = 2001), 4
        ) AS ratio
        FROM number_of_reports_by_type
        """
    ),
    "legal-easy-10": Plan.of(
        """
        SELECT year FROM number_of_reports_by_type
        WHERE fraud >= 0.5 * (fraud + identity_theft + other)
        ORDER BY year
        """
    ),
    "legal-easy-25": Plan.of(
        """
        SELECT arg_max(military_branch, median_fraud_loss) AS branch
        FROM fraud_identity_theft_and_other_reports_by_military_branch
        """
    ),
    "legal-hard-7": Plan.of(
        """
        SELECT arg_max(theft_type, growth) AS theft_type
        FROM (
            SELECT theft_type,
                   sum(number_of_reports) FILTER (WHERE year = 2024)
                   / sum(number_of_reports) FILTER (WHERE year = 2020) AS growth
            FROM top_three_identity_theft_reports_by_year
            GROUP BY theft_type
        )
        """
    ),
    "legal-hard-14": Plan.of(
        """
        SELECT metropolitan_area FROM areas
        GROUP BY metropolitan_area
        ORDER BY max(number_of_reports) DESC
        LIMIT 5
        """,
        areas="""
        SELECT DISTINCT metropolitan_area, number_of_reports
        FROM state_msa_identity_theft_data
        WHERE _file IN (SELECT replace(name, ' ', '') || '.csv' FROM new_england_states)
        """,
    ),
    "legal-hard-16": Plan.of(
        """
        SELECT replace(_file, '.csv', '') AS state
        FROM state_msa_identity_theft_data
        GROUP BY _file
        HAVING count(*) >= 2
        ORDER BY max(number_of_reports) / sum(number_of_reports) DESC
        LIMIT 1
        """
    ),
    "legal-hard-17": Plan.of(
        """
        SELECT round(reports.number_of_reports * categories.percentage / 100) AS auto_related_2007
        FROM report_count AS reports, report_categories AS categories
        WHERE reports.year = 2007 AND categories.category = 'Auto Related'
        """
    ),
    "legal-hard-23": Plan.of(
        """
        SELECT theft.state
        FROM state_rankings_identity_theft_reports AS theft
        JOIN state_rankings_fraud_and_other_reports AS fraud ON theft.state = fraud.state
        ORDER BY theft.reports_per_100k_population + fraud.reports_per_100k_population DESC
        LIMIT 1
        """
    ),
    "legal-hard-24": Plan.of(
        """
        SELECT arg_max(metropolitan_area, number_of_reports) AS metropolitan_area
        FROM state_msa_identity_theft_data
        WHERE _file = (SELECT replace(state, ' ', '') || '.csv' FROM largest_state)
        """,
        largest_state="""
        SELECT theft.state
        FROM state_rankings_identity_theft_reports AS theft
        JOIN state_rankings_fraud_and_other_reports AS fraud ON theft.state = fraud.state
        ORDER BY theft.number_of_reports + fraud.number_of_reports DESC
        LIMIT 1
        """,
    ),
    "legal-hard-29": Plan.of(
        """
        SELECT arg_max(metropolitan_area, share) AS metropolitan_area
        FROM (
            SELECT metropolitan_area, count(*) OVER own_state AS areas,
                   number_of_reports / sum(number_of_reports) OVER own_state AS share
            FROM state_msa_fraud_and_other_data
            WINDOW own_state AS (PARTITION BY _file)
        )
        WHERE areas >= 5
        """
    ),
}

ENVIRONMENT_PLANS: Final[dict[str, Plan]] = {
    "environment-easy-2": Plan.of(
        "SELECT year FROM yearly WHERE rate > (SELECT avg(rate) FROM yearly) ORDER BY year",
        yearly=f"""
        SELECT year, {_VIOLATION_RATE} AS rate
        FROM water_body_testing
        WHERE beach_type_description = 'Fresh'
        GROUP BY year
        """,
    ),
    "environment-easy-5": Plan.of(
        """
        SELECT regexp_extract(_file, 'precipitations_(.*)[.]csv', 1) AS town
        FROM monthly_precipitations
        WHERE year = 2020
        ORDER BY jun + jul + aug DESC
        LIMIT 1
        """
    ),
    "environment-easy-6": Plan.of(
        f"SELECT round({_VIOLATION_RATE}, 2) AS rate FROM water_body_testing WHERE beach_type_description = 'Marine'"
    ),
    "environment-hard-7": Plan.of(
        """
        SELECT round(
            100.0 * count(*) FILTER (WHERE ej > 50 AND failed) / count(*) FILTER (WHERE ej > 50)
            - 100.0 * count(*) FILTER (WHERE ej < 25 AND failed) / count(*) FILTER (WHERE ej < 25), 2
        ) AS difference
        FROM samples
        """,
        samples="""
        SELECT town.percent_of_population_in_ej_bgs AS ej, lower(water.violation) = 'yes' AS failed
        FROM water_body_testing AS water
        JOIN environmental_justice_populations AS town ON water.community = town.municipality
        WHERE water.year = 2023 AND water.beach_type_description = 'Marine'
        """,
    ),
    "environment-hard-11": Plan.of(
        """
        SELECT round(avg(n1_day_rain), 2) AS rain
        FROM beach_datasheet
        WHERE greatest(pleasure_bay_broadway_enterococcus, pleasure_bay_flagpole_enterococcus) >= 104
        """
    ),
    "environment-hard-15": Plan.of(
        """
        SELECT beach_name FROM yearly
        GROUP BY beach_name
        HAVING count(*) = 4
        ORDER BY avg(rate) DESC
        LIMIT 1
        """,
        yearly=f"""
        SELECT beach_name, year, {_VIOLATION_RATE} AS rate
        FROM water_body_testing
        WHERE beach_type_description = 'Fresh' AND year BETWEEN 2020 AND 2023
        GROUP BY beach_name, year
        """,
    ),
    "environment-hard-17": Plan.of(
        f"""
        SELECT round({_VIOLATION_RATE}, 2) AS rate
        FROM water_body_testing
        WHERE community = 'Chatham' AND beach_name ILIKE '%Bucks Creek%' AND year = (SELECT year FROM wettest_summer)
          AND month(sample_date) BETWEEN 6 AND 8
        """,
        medians="""
        SELECT median(jun) AS jun, median(jul) AS jul, median(aug) AS aug
        FROM monthly_precipitations
        WHERE _file ILIKE '%chatham%'
        """,
        wettest_summer="""
        SELECT rain.year
        FROM monthly_precipitations AS rain, medians
        WHERE rain._file ILIKE '%chatham%'
        ORDER BY coalesce(rain.jun, medians.jun) + coalesce(rain.jul, medians.jul)
            + coalesce(rain.aug, medians.aug) DESC
        LIMIT 1
        """,
    ),
    "environment-hard-20": Plan.of(
        f"""
        SELECT beach_name
        FROM water_body_testing
        WHERE year = 2015 AND lower(community) = (SELECT town FROM driest)
        GROUP BY beach_name
        ORDER BY {_VIOLATION_RATE} DESC
        LIMIT 3
        """,
        driest="""
        SELECT regexp_extract(_file, 'precipitations_(.*)[.]csv', 1) AS town
        FROM monthly_precipitations
        WHERE year = 2015
        ORDER BY jun + jul + aug
        LIMIT 1
        """,
    ),
}

ORACLE_PLANS: Final[dict[str, Plan]] = LEGAL_PLANS | ENVIRONMENT_PLANS

CHAINED: Final = {"legal-hard-24", "environment-hard-17", "environment-hard-20"}
"""Tasks whose first step decides which file or town the last step reads."""
